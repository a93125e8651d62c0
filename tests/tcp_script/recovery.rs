//! What was lost, late or twice is put right.

use crate::{IN_FLIGHT, OPEN, OUTBOUND, play, script};

#[test]
fn rfc5681_3_2_third_duplicate_sends_one_segment_again() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "> A 1 ack=1
         > A 1 ack=1
         > A 1 ack=1
         data 0 1460 1
         = sent 1460
         > A 1 ack=1
         > A 1 ack=1",
    ]);
}

#[test]
fn rfc5681_2_what_is_no_duplicate_does_not_count() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "> A 1 ack=1
         > A 1 ack=1 win=10001
         > A 1+1 ack=1 win=10001 -> 0 1
         w 1
         < A 3001 ack=2
         > A 2 ack=1 win=10001",
    ]);
}

#[test]
fn rfc6582_3_2_partial_ack_sends_the_next_hole() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "> A 1 ack=1
         > A 1 ack=1
         > A 1 ack=1
         data 0 1460 1
         = sent 1460
         > A 1 ack=1461
         discard 1460
         data 0 1460 1461
         = sent 1460
         > A 1 ack=3001
         discard 1540",
    ]);
}

#[test]
fn rfc6582_4_duplicates_of_our_own_resending_start_nothing() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "t 1000
         data 0 1460 1
         = sent 1460
         > A 1 ack=1
         > A 1 ack=1
         > A 1 ack=1
         > A 1 ack=1",
    ]);
}

#[test]
fn rfc6298_5_timeout_sends_one_segment_until_there_is_progress() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "t 999
         data 2999 1 3000
         = sent 1
         t 1
         data 0 1460 1
         = sent 1460
         > A 1 ack=1461
         discard 1460
         data 0 2920 1461
         = drained 1540
         > A 1 ack=3001
         discard 1540",
    ]);
}

#[test]
fn acks_stay_in_the_guests_window_after_a_timeout() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "t 1000
         data 0 1460 1
         = sent 1460
         > A 1+10 ack=1 -> 0 10
         w 10
         < A 3001 ack=11
         > A 11+10 ack=1 win=2000 -> 0 10
         w 10
         < A 2001 ack=21",
    ]);
}

#[test]
fn while_the_guest_stands_still_nothing_is_counted_or_sent_again() {
    let again = "t 1000\ndata 0 1460 1\n= sent 1460";
    let stopped = "unread 2000\n".repeat(150);
    let goes_on = "> A 1 ack=3001\ndiscard 3000";
    script(&[OPEN, IN_FLIGHT, again, &stopped, goes_on]);
    // What it does not read has its time again from when it does.
    let mut player = super::play(&[OPEN, IN_FLIGHT, again, &stopped].join("\n"));
    for seconds in [2, 4, 8, 16, 32, 64] {
        player.go_on(&format!("t {seconds}000\ndata 0 1460 1\n= sent 1460"));
    }
    player.go_on("t 120000\n< RA 3001 ack=1\nreset");
    // So does a SYN, and a FIN.
    let mut player = super::play(super::INBOUND);
    player.go_on(&"unread 1000\n".repeat(30));
    player.go_on("t 1000\n< S 0 mss=1000 ws=8\n> SA 0 ack=1\n< A 1 ack=1");
    script(&[OPEN, super::PEER_CLOSED, &stopped, "> A 1 ack=2"]);
    // For ever is too long.
    let hours = "unread 7199000\nunread 1000\n< RA 3001 ack=1\nreset";
    script(&[OPEN, IN_FLIGHT, hours]);
}

#[test]
fn rfc9293_3_8_3_seven_timeouts_then_reset() {
    let mut player = play(&[OPEN, IN_FLIGHT].join("\n"));
    for s in [1, 2, 4, 8, 16, 32, 64] {
        player.go_on(&format!("t {}\ndata 0 1460 1\n= sent 1460", s * 1000));
    }
    player.go_on("t 120000\n< RA 3001 ack=1\nreset");
}

#[test]
fn lost_fin_is_sent_again() {
    script(&[OPEN, super::PEER_CLOSED, "t 1000", "< FA 1 ack=1", "> A 1 ack=2"]);
}

#[test]
fn link_without_room_does_not_count_as_timeouts() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "t 1000
         data 0 1460 1
         = noroom
         t 1000000
         port
         data 0 1460 1
         = sent 1460
         t 1999
         t 1
         data 0 1460 1
         = sent 1460",
    ]);
}

#[test]
fn rfc9293_3_10_7_4_window_of_an_older_segment_is_not_taken() {
    script(&[
        OPEN,
        "> A 11+10 ack=1 win=5000 -x OutOfOrder
         < A 1 ack=1
         > A 1+10 ack=1 win=10000 -> 0 10
         w 10
         < A 1 ack=11
         ! readable
         data 0 4380 1
         = drained 1",
    ]);
}

/// Or neither end would hear the other any more: `Conn::hear_from_beyond`.
#[test]
fn an_acknowledgement_from_beyond_the_window_counts() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "> A 60001+10 ack=3001 -x OutsideWindow
         discard 3000
         < A 3001 ack=1
         > A 60011+10 ack=3002 -x OutsideWindow
         < A 3001 ack=1
         > A 1+10 ack=3001 win=5000 -> 0 10
         w 10
         < A 3001 ack=11
         ! readable
         data 0 4380 3001
         = drained 1",
    ]);
}

#[test]
fn vanished_data_resets_rather_than_lies() {
    script(&[OPEN, IN_FLIGHT, "t 1000", "data 0 1460 1", "= eof", "< RA 3001 ack=1", "reset"]);
    script(&[OPEN, IN_FLIGHT, "t 1000", "data 0 1460 1", "= empty", "< RA 3001 ack=1", "reset"]);
}

#[test]
fn rfc9293_3_8_6_1_closed_window_is_probed_for_as_long_as_it_is_answered() {
    let mut player = play(&[OPEN, "> A 1 ack=1 win=0\n! readable"].join("\n"));
    for s in [1, 2, 4, 8, 16] {
        player.go_on(&format!("t {}\n< A 0 ack=1\n> A 1 ack=1 win=0", s * 1000));
    }
    for _ in 0..60 {
        // Some are due as keepalive as well.
        player.go_on("t 29000\nt 91000\n< A 0 ack=1\n> A 1 ack=1 win=0");
    }
    player.go_on("> A 1 ack=1 win=500\ndata 0 500 1\n= drained 10");
}

#[test]
fn closed_window_without_answer_ends_in_reset() {
    let mut player = play(&[OPEN, "> A 1 ack=1 win=0\n! readable"].join("\n"));
    let mut probes = 0;
    loop {
        let at = player.conn().deadline().expect("open");
        player.conn().on_timer(at);
        let mut actions = 0;
        while player.conn().poll(at).is_some() {
            actions += 1;
        }
        if player.conn().is_closed() {
            break;
        }
        probes += actions;
        assert!(probes < 50, "does not end");
    }
    assert!(probes >= 7, "{probes} probes");
}

#[test]
fn window_that_closes_takes_back_what_is_in_flight() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "> A 1 ack=1001 win=0
         discard 1000
         > A 1 ack=1001 win=10000
         data 0 8760 1001
         = drained 2000",
    ]);
}

#[test]
fn rfc9293_3_8_6_2_1_no_silly_segments_into_a_nearly_full_window() {
    script(&[
        OPEN,
        "! readable
         data 0 8760 1
         = sent 8760
         > A 1 ack=1001 win=9000
         t 0
         > A 1 ack=2001 win=9000
         data 8760 1460 8761
         = drained 1460",
    ]);
}

/// A burst of which the guest has acknowledged all but the last segment: it acknowledges every second one.
const BURST: &str = "
    > S 0 mss=1460 win=50000
    ! connected
    < SA 0 ack=1 mss=1000
    > A 1 ack=1 win=50000
    ! readable
    data 0 49640 1
    = drained 20000
    > A 1 ack=18541 win=50000
    discard 18540
    us 1999
    t 0
    us 1";

#[test]
fn rfc8985_7_a_guest_that_is_silent_after_a_burst_is_asked_how_far_it_is() {
    let asked = "
        t 0
        data 1459 1 20000
        = sent 1";
    script(&[BURST, asked, "> A 1 ack=20001 win=50000\ndiscard 1460\nt 1000"]);
    // No answer comes: once more, and then the timeout.
    let again = "
        t 248
        data 1459 1 20000
        = sent 1
        t 749
        t 1
        data 0 1460 18541
        = sent 1460";
    script(&[BURST, asked, again]);
    // Its machine stands still.
    script(&[BURST, "unread 0\nunread 248"]);
}

#[test]
fn rfc8985_7_what_was_not_asked_is_not_answered() {
    let duplicate = "> A 1 ack=18541 win=50000";
    script(&[BURST, "unread 0", duplicate, duplicate]);
    script(&[BURST, "t 0\ndata 1459 1 20000\n= noroom\nport", duplicate, duplicate]);
}

/// A round trip of 20 ms, and what counts as lost was sent again.
const FAR: &str = "
    > S 0 mss=1000 win=50000
    ! connected
    < SA 0 ack=1 mss=1000
    us 20000
    > A 1 ack=1 win=50000
    ! readable
    data 0 50000 1
    = drained 20000
    us 20000
    > A 1 ack=1 win=50000
    > A 1 ack=1 win=50000
    > A 1 ack=1 win=50000
    data 0 1000 1
    = sent 1000";

#[test]
fn rfc3522_what_comes_sooner_than_it_can_was_late() {
    let next = "
        us 100
        > A 1 ack=1001 win=50000
        > A 1 ack=1001 win=50000
        data 1000 1000 1001
        = sent 1000";
    // One more duplicate is waited for from now on; two of those that came may have told of what is missing behind it.
    script(&[FAR, "us 9000\n> A 1 ack=1001 win=50000", next]);
    // It was lost, and so is what follows.
    script(&[FAR, "us 20000\n> A 1 ack=1001 win=50000\ndata 1000 1000 1001\n= sent 1000"]);
}

#[test]
fn rfc8985_7_the_answer_shows_what_was_lost_and_counts_once() {
    let asked = "
        t 250
        data 2999 1 3000
        = sent 1
        > A 1 ack=1
        data 0 1460 1
        = sent 1460
        > A 1 ack=1";
    script(&[OPEN, IN_FLIGHT, asked, "t 700\n> A 1 ack=3001\ndiscard 3000"]);
    // It has read meanwhile, and its window is another one.
    let read = asked.replacen("> A 1 ack=1\n", "> A 1 ack=1 win=12000\n", 1);
    script(&[OPEN, IN_FLIGHT, &read]);
    // The same of the end of the stream, once the data before it was acknowledged.
    let ended = "
        ! readable
        data 0 8760 1
        = drained 100
        ! peerclosed
        data 100 8760 101
        = eof
        < FA 101 ack=1
        > A 1 ack=101
        discard 100
        t 250
        < A 100 ack=1
        > A 1 ack=101
        < FA 101 ack=1
        > A 1 ack=102";
    script(&[OPEN, ended]);
}

#[test]
fn rfc5681_3_1_after_a_timeout_the_window_is_small_and_grows() {
    let lost = "
        t 1000
        data 0 1460 18541
        = sent 1460
        > A 1 ack=20001 win=50000
        discard 1460
        ! readable
        data 0 4380 20001
        = sent 4380
        > A 1 ack=24381 win=50000
        discard 4380
        data 0 5840 24381
        = sent 5840";
    script(&[BURST, lost]);
}

#[test]
fn rfc9293_3_8_6_2_1_segments_are_no_larger_than_half_of_the_window() {
    let open = |window: &str| OPEN.replace("win=10000", window) + &format!(" {window}");
    // It has room for one of 1,460, and would acknowledge that after a while.
    let two = "
        ! readable
        data 0 2048 1
        = sent 2048
        > A 1 ack=2049 win=2048
        discard 2048
        data 0 2048 2049
        = sent 2048";
    script(&[&open("win=2048"), two]);
    // A window as small as a segment was then is used as a whole.
    script(&[&open("win=500"), "! readable\ndata 0 500 1\n= sent 500"]);
}

#[test]
fn rfc1191_6_4_what_is_too_big_goes_again_at_once_and_smaller() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "toobig 1 1360
         data 0 9520 1
         = drained 3000
         toobig 1461 1360
         toobig 1361 1400
         > A 1 ack=3001
         discard 3000
         ! readable
         data 0 9520 3001
         = drained 1360
         t 1000
         data 0 1360 3001
         = sent 1360
         toobig 3001 512
         data 0 1024 3001
         = sent 1024",
    ]);
}

#[test]
fn rfc5927_4_1_only_what_is_under_way_can_be_too_big() {
    script(&[
        OPEN,
        "toobig 1 1360 -x
         toobig 0 1360 -x",
        IN_FLIGHT,
        "> A 1 ack=1461
         discard 1460
         toobig 1460 1360 -x
         toobig 3001 1360 -x
         ! readable
         data 1540 7300 3001
         = empty
         toobig 3000 1360
         data 0 9520 1461
         = sent 1540",
    ]);
    script(&[OUTBOUND, "toobig 0 1360 -x"]);
}
