//! Every link keeps the law of room (`src/frame/src/room.rs`): what a reservation may answer, what follows
//! after each answer, and that nothing of what is lent is lost or lent twice. A link that is added gets all
//! of it by one line below.

#![allow(clippy::panic, missing_docs, reason = "a test fails by panicking; nobody imports it")]

mod law;
mod links;
mod senders;

use links::{Mem, StreamLink, TapLink, Vhost};
use passt_frame::MemPort;
use passt_guest::{Options, bit};

/// The tests of each link: its name, what it is, and an expression that makes one whose guest has
/// everything free. It is `bounded` if its guest can be short of room, and `threaded` if its guest can live in
/// another thread.
macro_rules! links {
    ($($name:ident [$($kind:ident)+]: $link:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn a_frame_fits_whole_or_never() {
                law::whole_or_never(|| $link);
            }

            #[test]
            fn bytes_of_a_stream_fit_into_what_there_is() {
                law::streams_are_cut(|| $link);
            }

            #[test]
            fn what_is_given_back_is_as_if_it_was_never_lent() {
                law::given_back(|| $link);
            }

            #[test]
            fn who_is_down_has_no_room() {
                law::down(|| $link);
            }

            #[test]
            fn senders_that_sleep_until_there_is_room_send_everything() {
                senders::sleepers(|| $link);
            }

            $(tests_of!($kind, $link);)+
        }
    )*};
}

/// Those of one kind of link.
macro_rules! tests_of {
    (unbounded, $link:expr) => {
        #[test]
        fn there_always_is_room() {
            law::always_room(|| $link);
        }
    };
    (bounded, $link:expr) => {
        #[test]
        fn room_that_is_gone_is_reported_once_when_it_is_back() {
            law::exhaustion(|| $link);
        }

        #[test]
        fn who_comes_first_takes_no_report_away() {
            law::used_meanwhile(|| $link);
        }
    };
    (threaded, $link:expr) => {
        #[test]
        fn no_report_is_lost_to_a_guest_that_makes_room_at_the_same_time() {
            senders::race(|| $link);
        }
    };
}

links! {
    mem_mergeable [bounded]: Mem::new(MemPort::new(links::UP, 4096).with_buffers(40));
    mem_small [bounded]: Mem::new(MemPort::new(links::UP, 100).with_buffers(3));
    mem_plain [bounded]: Mem::new(MemPort::new(links::UP, 1526).plain().with_buffers(16));
    stream [bounded threaded]: StreamLink::new();
    tap [unbounded]: TapLink::new(false);
    tap_with_headers [unbounded]: TapLink::new(true);
    vhost [bounded threaded]: Vhost::new(Options::default());
    vhost_16 [bounded threaded]: Vhost::new(ring(16, 1536));
    vhost_16_by_flag [bounded threaded]: Vhost::new(by_flag(ring(16, 1536)));
    vhost_16_at_the_wrap [bounded threaded]: Vhost::new(from(0xfff0, ring(16, 1536)));
    vhost_1 [bounded threaded]: Vhost::new(ring(1, 4096));
    vhost_2_tiny [bounded threaded]: Vhost::new(from(0xffff, ring(2, 100)));
    vhost_1024_of_64 [bounded threaded]: Vhost::new(ring(1024, 64));
    vhost_32768 [bounded threaded]: Vhost::new(ring(32768, 256));
    vhost_32768_at_the_wrap [bounded threaded]: Vhost::new(from(0x8001, ring(32768, 256)));
    vhost_plain [bounded threaded]: Vhost::new(plain(ring(256, 1526)));
    vhost_plain_large [bounded threaded]: Vhost::new(plain(ring(16, 65_562)));
    vhost_plain_small [bounded threaded]: Vhost::new(plain(ring(4, 100)));
    vhost_plain_by_flag [bounded threaded]: Vhost::new(by_flag(plain(ring(8, 1526))));
    vhost_plain_at_the_wrap [bounded threaded]: Vhost::new(from(0xfffe, plain(ring(4, 1526))));
}

/// A ring of `size` entries, each with a buffer of `bytes` bytes.
fn ring(size: u16, bytes: u32) -> Options {
    Options { ring_size: size, rx_buffers: size, rx_buffer_bytes: bytes, ..Options::default() }
}

/// A frame takes one buffer.
fn plain(options: Options) -> Options {
    Options { features: options.features & !bit::MRG_RXBUF, ..options }
}

/// Kicks are asked for by flag, not by index.
fn by_flag(options: Options) -> Options {
    Options { features: options.features & !bit::EVENT_IDX, ..options }
}

/// Both rings begin with `first_index`.
fn from(first_index: u16, options: Options) -> Options {
    Options { first_index, ..options }
}
