//! Both sides are open.

use crate::player::play;
use crate::{IN_FLIGHT, OPEN, PEER_CLOSED, script};

#[test]
fn rfc5961_4_syn_gets_one_challenge_a_while() {
    script(&[OPEN, "> S 1 -x BadSyn", "< A 1 ack=1", "> S 1 -x BadSyn", "t 140"]);
    script(&[OPEN, "> SA 0 ack=1 -x BadSyn", "< A 1 ack=1"]);
}

#[test]
fn data_is_acknowledged_once_the_socket_has_it() {
    script(&[OPEN, "> A 1+10 ack=1 -> 0 10", "> A 11+5 ack=1 -> 0 5", "w 15", "< A 1 ack=16"]);
}

#[test]
fn rfc9293_3_8_5_urgent_data_of_the_guest_is_part_of_its_stream() {
    script(&[OPEN, "> AU 1+10 ack=1 -> 0 10", "> A 11+5 ack=1 -> 0 5", "w 15", "< A 1 ack=16"]);
}

#[test]
fn rfc9293_3_10_7_4_old_data_is_cut_off() {
    script(&[
        OPEN,
        "> A 1+10 ack=1 -> 0 10
         w 10
         < A 1 ack=11
         > A 6+10 ack=1 -> 5 5
         w 5
         < A 1 ack=16
         > A 1+10 ack=1 -x Old
         < A 1 ack=16",
    ]);
}

#[test]
fn rfc5681_4_2_gap_gets_a_duplicate_ack_for_each_segment() {
    script(&[OPEN, "> A 11+10 ack=1 -x OutOfOrder", "< A 1 ack=1"]);
    script(&[
        OPEN,
        "> A 11+5000 ack=1 -x OutOfOrder
         < A 1 ack=1
         < A 1 ack=1
         < A 1 ack=1",
    ]);
}

#[test]
fn rfc9293_3_10_7_4_data_beyond_the_window_is_dropped() {
    script(&[OPEN, "> A 50001+10 ack=1 -x OutsideWindow", "< A 1 ack=1"]);
}

#[test]
fn rfc9293_3_8_4_keepalive_probe_is_answered() {
    script(&[
        OPEN,
        "> A 0 ack=1 -x Keepalive",
        "< A 1 ack=1",
        "t 140",
        "> A 0+1 ack=1 -x Keepalive",
        "< A 1 ack=1",
    ]);
    // One of the window is none.
    script(&[
        OPEN,
        "room 0",
        "> A 1+10 ack=1 -> 0 10",
        "w 0",
        "< A 1 ack=1 win=0",
        "watch",
        "> A 0 ack=1 -x Old",
        "< A 1 ack=1",
    ]);
}

#[test]
fn short_write_takes_the_rest_back_with_the_fin() {
    script(&[
        OPEN,
        "> A 1+100 ack=1 -> 0 100
         > FA 101+100 ack=1 -> 0 100
         w 150
         < A 1 ack=151 win=0
         watch
         > FA 151+50 ack=1 -> 0 50
         w 50
         shutdown
         t 5
         < A 1 ack=202",
    ]);
}

#[test]
fn after_a_short_write_duplicates_tell_of_the_loss() {
    script(&[
        OPEN,
        "> A 1+100 ack=1 -> 0 100
         w 0
         < A 1 ack=1 win=0
         watch
         ! writable
         < A 1 ack=1 win=50000
         < A 1 ack=1 win=50000
         < A 1 ack=1 win=50000
         < A 1 ack=1 win=50000",
    ]);
}

#[test]
fn fin_is_passed_on_and_acknowledged() {
    script(&[OPEN, "> FA 1 ack=1", "shutdown", "t 5", "< A 1 ack=2"]);
    script(&[OPEN, "> FA 1+5 ack=1 -> 0 5", "w 5", "shutdown", "t 5", "< A 1 ack=7"]);
}

#[test]
fn the_peers_fin_or_data_acknowledges_the_fin_if_it_comes_at_once() {
    script(&[
        OPEN,
        "> FA 1 ack=1
         shutdown
         ! readable
         data 0 8760 1
         = drained 100
         t 5
         ! peerclosed
         data 100 8760 101
         = eof
         < FA 101 ack=2
         > A 2 ack=102
         discard 100
         close",
    ]);
}

#[test]
fn fin_beyond_a_gap_is_not_passed_on() {
    script(&[OPEN, "> FA 5 ack=1 -x OutOfOrder", "< A 1 ack=1"]);
}

#[test]
fn rfc5961_3_exact_reset_closes() {
    script(&[OPEN, "> R 1", "reset"]);
    script(&[OPEN, "> A 1+10 ack=1 -> 0 10", "> RA 11 ack=1", "w 10", "reset"]);
}

#[test]
fn rfc5961_3_reset_elsewhere_in_the_window_gets_a_challenge() {
    script(&[OPEN, "> R 2 -x BadReset", "< A 1 ack=1"]);
}

#[test]
fn rfc5961_3_reset_outside_the_window_is_dropped() {
    script(&[OPEN, "> R 0 -x BadReset", "> R 60000 -x BadReset"]);
}

#[test]
fn rfc9293_3_10_7_4_ack_of_what_was_never_sent_is_answered_and_dropped() {
    script(&[OPEN, "> A 1+10 ack=2 -x BadAck", "< A 1 ack=1"]);
}

#[test]
fn rfc5961_5_ack_older_than_any_window_is_answered_and_dropped() {
    script(&[OPEN, "> A 1+10 ack=-20000000 -x BadAck", "< A 1 ack=1"]);
}

#[test]
fn segment_without_ack_is_dropped() {
    script(&[OPEN, "> - 1+10 -x NoAck"]);
}

#[test]
fn readable_socket_is_sent_as_far_as_the_window_goes() {
    script(&[
        OPEN,
        "! readable
         data 0 8760 1
         = sent 8760
         > A 1 ack=8761 win=10000
         discard 8760
         data 0 8760 8761
         = empty",
    ]);
}

#[test]
fn an_acknowledgement_may_wait_for_data_or_for_more() {
    let delayed = "delays\n> S 0 mss=1460 ws=7 win=10000\n! connected
        < SA 0 ack=1 win=50000 mss=1000 ws=8\n> A 1 ack=1";
    let data = "> A 1+10 ack=1 -> 0 10\nw 10";
    // In vain: it goes when the time is over, and the next one at once.
    script(&[
        delayed,
        data,
        "us 299\nus 1\n< A 1 ack=11",
        "> A 11+10 ack=1 -> 0 10\nw 10\n< A 1 ack=21",
    ]);
    // The answer carries it, and the next one waits, too.
    let answered = "us 200\n! readable\ndata 0 261340 1\n= drained 5\n> A 11+10 ack=6 -> 0 10\nw 10\ndiscard 5";
    script(&[delayed, data, answered, "us 299\nus 1\n< A 6 ack=21"]);
    // More is acknowledged together.
    script(&[
        delayed,
        data,
        "us 200\n> A 11+10 ack=1 -> 0 10\nw 10\nus 299\nus 1\n< A 1 ack=21",
        "> A 21+10 ack=1 -> 0 10\nw 10\nus 300\n< A 1 ack=31",
    ]);
    // What is out of order, or most of a window, does not wait.
    script(&[delayed, "> A 100+10 ack=1 -x OutOfOrder\n< A 1 ack=1"]);
    script(&[delayed, "room 50000\n> A 1+30000 ack=1 -> 0 30000\nw 30000\n< A 1 ack=30001"]);
}

#[test]
fn data_carries_the_acknowledgement() {
    script(&[OPEN, "! readable", "> A 1+10 ack=1 -> 0 10", "w 10", "data 0 8760 1", "= drained 5"]);
}

#[test]
fn failed_socket_resets_both() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "! failed
         data 3000 5840 3001
         = failed
         > A 1 ack=3001
         discard 3000
         data 0 8760 3001
         = failed
         < RA 3001 ack=1
         reset",
    ]);
    script(&[OPEN, "! readable", "data 0 8760 1", "= failed", "< RA 1 ack=1", "reset"]);
    // Who is told first by a read waits as well.
    script(&[
        OPEN,
        "! readable
         data 0 8760 1
         = sent 8760
         > A 1 ack=4381
         discard 4380
         data 4380 4380 8761
         = failed
         > A 1 ack=8761
         discard 4380
         data 0 8760 8761
         = eof
         < RA 8761 ack=1
         reset",
    ]);
}

/// The socket has failed, with 300 bytes in its queue.
const FAILED: &str = "
    ! failed
    data 0 8760 1
    = drained 300
    data 300 8760 301";

/// The guest has got those.
const HAS_GOT: &str = "
    > A 1 ack=301
    discard 300
    data 0 8760 301";

#[test]
fn what_has_come_before_a_failure_is_the_guest_s() {
    // A write may have taken the error away; without a peek offset, what is behind the bytes that were peeked at does not
    // show.
    for end in ["= failed", "= eof", "= empty"] {
        script(&[OPEN, FAILED, end, HAS_GOT, "= eof", "< RA 301 ack=1", "reset"]);
    }
    // What was lost comes again.
    let again = "
        t 1000
        data 0 1460 1
        = sent 300";
    let has_got = HAS_GOT.replace("8760", "2920");
    script(&[OPEN, FAILED, "= failed", again, &has_got, "= failed", "< RA 301 ack=1", "reset"]);
    // The guest does not acknowledge it for ever.
    let mut player = play(&[OPEN, FAILED, "= failed"].join("\n"));
    player.go_on("unread 59999");
    player.go_on("unread 1\n< RA 301 ack=1\nreset");
    // It takes its time.
    let mut player = play(&[OPEN, FAILED, "= failed"].join("\n"));
    player.go_on("unread 50000\n> A 1 ack=101\ndiscard 100\ndata 200 8760 301\n= failed");
    player.go_on("unread 59999");
    player.go_on("unread 1\n< RA 301 ack=1\nreset");
}

#[test]
fn a_guest_without_room_hears_of_a_failure_when_it_has_all_there_is() {
    for failed in ["! failed", "! failedafterend"] {
        script(&[OPEN, "> A 1 ack=1 win=0", failed, "queue 0", "< RA 1 ack=1", "reset"]);
        let filled = "
            ! readable
            data 0 8760 1
            = sent 8760
            > A 1 ack=8761 win=0
            discard 8760";
        script(&[OPEN, filled, failed, "queue 0", "< RA 8761 ack=1", "reset"]);
    }
    // What is left waits for room.
    let waits =
        [OPEN, "> A 1 ack=1 win=0", "! failed", "queue 300", "t 30000", "< A 0 ack=1"].join("\n");
    let has_room = "
        > A 1 ack=1 win=8760
        data 0 8760 1
        = drained 300
        data 300 7300 301
        = failed
        > A 1 ack=301
        discard 300
        data 0 8760 301
        = failed
        < RA 301 ack=1
        reset";
    script(&[&waits, has_room]);
    script(&[&waits, "unread 29999", "unread 1", "< RA 1 ack=1", "reset"]);
    // A guest that sends all the same waits for its own data to be taken: not for a minute.
    let sends = "> A 1+100 ack=1 win=0 -x Closed";
    script(&[&waits, sends, "t 500", sends, "t 499\nt 1", "< RA 1 ack=1", "reset"]);
    script(&[&waits, sends, "t 500", has_room]);
    // Once there is room, it has its time for that.
    let room = has_room.split("> A 1 ack=301").next().unwrap();
    script(&[&waits, sends, "t 950", room, "t 100"]);
}

#[test]
fn an_end_before_a_failure_is_the_guest_s() {
    let end = "
        ! failedafterend
        data 0 8760 1
        = drained 300
        data 300 8760 301
        = eof
        < FA 301 ack=1
        ! failed
        > A 1 ack=302
        discard 300
        < RA 302 ack=1
        reset";
    script(&[OPEN, end]);
    // Whatever the error was: it has come before the guest's.
    let told = "
        ! peerclosed
        data 0 8760 1
        = sent 8760
        ! failed
        > A 1 ack=8761
        discard 8760
        data 0 8760 8761
        = eof
        < FA 8761 ack=1
        > A 1 ack=8762
        < RA 8762 ack=1
        reset";
    script(&[OPEN, told]);
    // Its end was known before.
    script(&[OPEN, PEER_CLOSED, "! failed", "> A 1 ack=2", "< RA 2 ack=1", "reset"]);
}

#[test]
fn what_the_guest_sends_after_a_failure_is_not_taken() {
    let goes_on = "
        = noroom
        ! hungup
        > A 1+10 ack=301 -x Closed
        > FA 11 ack=301 -x Closed
        > A 1 ack=301
        discard 300";
    script(&[OPEN, FAILED, goes_on, "t 59000", "t 999", "t 1", "< RA 301 ack=1", "reset"]);
    // Nor is the guest waited for for ever because it says something.
    script(&[
        OPEN,
        FAILED,
        "= noroom
         t 40000
         > A 1 ack=1
         t 20000
         < RA 301 ack=1
         reset",
    ]);
}

#[test]
fn request_and_response_cost_three_actions() {
    script(&[
        OPEN,
        "> A 1+1 ack=1 -> 0 1
         w 1
         < A 1 ack=2
         ! readable
         data 0 8760 1
         = drained 1
         > A 2 ack=2
         discard 1",
    ]);
}

#[test]
fn fin_follows_the_data_at_once() {
    script(&[
        OPEN,
        IN_FLIGHT,
        "! peerclosed
         data 3000 5840 3001
         = eof
         < FA 3001 ack=1
         > A 1 ack=3002
         discard 3000",
    ]);
}

#[test]
fn no_room_on_the_link_is_waited_for() {
    script(&[
        OPEN,
        "! readable
         data 0 8760 1
         = noroom
         t 20000
         port
         data 0 8760 1
         = drained 10",
    ]);
}

#[test]
fn acknowledged_bytes_are_discarded_in_batches() {
    script(&[
        OPEN,
        "! readable
         data 0 8760 1
         = drained 8760
         > A 1 ack=1461
         > A 1 ack=2921
         discard 2920
         > A 1 ack=8761
         discard 5840",
    ]);
}

#[test]
fn silent_guest_is_probed_and_given_up() {
    script(&[OPEN, "t 29999", "t 1", "< A 0 ack=1", "t 30000", "< A 0 ack=1"]);
    script(&[OPEN, "t 7200000", "< RA 1 ack=1", "reset"]);
}

#[test]
fn an_answer_puts_off_the_next_probe() {
    script(&[OPEN, "t 30000", "< A 0 ack=1", "> A 1 ack=1", "t 29999", "t 1", "< A 0 ack=1"]);
}

/// 100 bytes of the guest, of which the socket has taken 40.
const KEPT: &str = "
    > A 1+100 ack=1 -> 0 100
    w 40 keeps 60
    < A 1 ack=41 win=0
    watch";

/// The same, while data is in flight to the guest.
const KEPT_IN_FLIGHT: &str = "
    > A 1+100 ack=1 win=10000 -> 0 100
    w 40 keeps 60
    < A 3001 ack=41 win=0
    watch";

#[test]
fn what_is_kept_is_acknowledged_once_the_socket_has_it() {
    script(&[
        OPEN,
        KEPT,
        "kept 20
         < A 1 ack=81 win=0
         kept 0
         < A 1 ack=101 win=50000
         > A 101+10 ack=1 -> 0 10
         w 10
         < A 1 ack=111",
    ]);
    // What comes meanwhile comes behind it.
    script(&[OPEN, KEPT, "> A 101+10 ack=1 -> 0 10", "w 0 keeps 10"]);
    script(&[OPEN, KEPT, "kept 0", "< A 1 ack=101 win=50000"]);
    // Of what is not kept the guest is told, as before.
    script(&[
        OPEN,
        "> A 1+100 ack=1 -> 0 100
         w 40 keeps 50
         < A 1 ack=41 win=0
         watch
         kept 0
         < A 1 ack=91 win=50000
         < A 1 ack=91
         < A 1 ack=91
         < A 1 ack=91",
    ]);
}

#[test]
fn a_guest_that_repeats_what_is_kept_is_told_to_wait() {
    // For longer than a guest may contradict itself. A window that is closed keeps it from giving up.
    let again = "
        > A 41+60 ack=1 -x Old
        < A 1 ack=41 win=0
        t 1500
        > A 40 ack=1 -x Old
        < A 1 ack=41 win=0
        t 1500";
    script(&[OPEN, KEPT, again, again, "kept 0", "< A 1 ack=101 win=50000"]);
    // It has not heard that nothing is kept any more, and has said something old before, by a way that changes the order.
    let heard = "
        > A 1 ack=0 -x Old
        < A 1 ack=41 win=0
        kept 0
        < A 1 ack=101 win=50000
        t 2500
        > A 40 ack=1 -x Old
        < A 1 ack=101";
    script(&[OPEN, KEPT, heard, "t 2500\n> A 40 ack=1 -x Old\n< A 1 ack=101"]);
}

#[test]
fn what_a_guest_acknowledges_counts_wherever_it_says_so() {
    // Linux says it from the end of the window, which is closed; others from what they repeat.
    for said in ["> A 41 ack=3001 win=500", "> A 41+60 ack=3001 win=500 -x Old"] {
        let answer = if said.contains('+') { "< A 3001 ack=41 win=0" } else { "" };
        script(&[
            OPEN,
            IN_FLIGHT,
            KEPT_IN_FLIGHT,
            said,
            "discard 3000",
            answer,
            "! readable
             data 0 500 3001
             = empty",
        ]);
    }
}

#[test]
fn the_end_of_the_guest_waits_for_what_is_kept() {
    let end = "
        > FA 101 ack=1
        kept 30
        t 5
        < A 1 ack=71 win=0
        kept 0
        shutdown
        t 5
        < A 1 ack=102";
    script(&[OPEN, KEPT, end]);
    // The peer has ended before: the connection is not over until all has gone.
    let ended = "
        ! peerclosed
        data 0 8760 1
        = eof
        < FA 1 ack=41
        > FA 101 ack=2
        kept 10
        < A 2 ack=91 win=0
        kept 0
        shutdown
        < A 2 ack=102
        close";
    script(&[OPEN, KEPT, ended]);
}

#[test]
fn what_crosses_our_acknowledgement_of_what_was_kept_counts() {
    // The guest's window was closed, and it says that it is open where it has heard that we are.
    let crosses = |says: &str| {
        let closed = "> A 101 ack=3001 win=0
             discard 3000";
        let flushed = "kept 0
             < A 3001 ack=101 win=50000
             ! readable";
        let opens = format!("> A 41{says} ack=3001 win=5000 -x Old");
        let go_on = "< A 3001 ack=101
             data 0 4380 3001
             = drained 100
             > A 101+10 ack=3101 -> 0 10
             discard 100
             w 10
             < A 3101 ack=111";
        script(&[OPEN, IN_FLIGHT, KEPT_IN_FLIGHT, closed, flushed, &opens, go_on]);
    };
    crosses("");
    crosses("+60");
}

#[test]
fn the_window_of_a_guest_counts_though_more_of_it_was_lost() {
    // 50 bytes are kept and 20 lost: the guest has numbered further than what is expected.
    let lost = "
        > A 1+50 ack=1 win=0 -> 0 50
        > A 51+10 ack=1 win=0 -> 0 10
        > A 61+10 ack=1 win=0 -> 0 10
        w 0 keeps 50
        < A 1 ack=1 win=0
        watch
        ! readable";
    script(&[OPEN, lost, "> A 1 ack=1 win=5000", "data 0 4380 1", "= empty"]);
    // Nothing is kept.
    let lost = "
        > A 1+50 ack=1 win=0 -> 0 50
        > A 51+10 ack=1 win=0 -> 0 10
        > A 61+10 ack=1 win=0 -> 0 10
        w 50
        < A 1 ack=51 win=0
        watch
        ! readable";
    script(&[OPEN, lost, "> A 51 ack=1 win=5000", "data 0 4380 1", "= empty"]);
}

#[test]
fn a_guest_that_has_filled_its_window_is_told_that_it_is_closed() {
    script(&[
        OPEN,
        "> A 1+50000 ack=1 -> 0 50000
         w 0 keeps 50000
         < A 1 ack=1 win=0
         watch",
    ]);
}

#[test]
fn a_reset_in_answer_to_what_acknowledges_less_than_was_kept_is_believed() {
    script(&[OPEN, KEPT, "> R 41", "reset"]);
    script(&[OPEN, KEPT, "> R 101", "reset"]);
    script(&[OPEN, KEPT, "> R 42 -x BadReset", "< A 1 ack=41"]);
}
