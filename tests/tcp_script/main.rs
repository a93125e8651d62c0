//! The TCP machine by script: each state with each input, named by clause where an RFC has one.
//! The language is `player`'s.

#![allow(clippy::panic, reason = "helpers of tests fail by panic, as tests do")]

mod player;

use player::play;

/// The guest opens; the peer is reached.
const OUTBOUND: &str = "
    > S 0 mss=1460 ws=7 win=10000
    ! connected
    < SA 0 ack=1 win=50000 mss=1000 ws=8";

/// The same, done.
const OPEN: &str = "
    > S 0 mss=1460 win=10000
    ! connected
    < SA 0 ack=1 mss=1000
    > A 1 ack=1";

/// The peer opens.
const INBOUND: &str = "
    accept
    < S 0 win=50000 mss=1000 ws=8";

/// 3,000 bytes are in flight to the guest.
const IN_FLIGHT: &str = "
    ! readable
    data 0 8760 1
    = drained 3000";

/// The guest has closed its side.
const GUEST_CLOSED: &str = "
    > FA 1 ack=1
    shutdown
    t 5
    < A 1 ack=2";

/// The peer has closed its side; our FIN is not acknowledged.
const PEER_CLOSED: &str = "
    ! peerclosed
    data 0 8760 1
    = eof
    < FA 1 ack=1";

fn script(parts: &[&str]) {
    play(&parts.join("\n"));
}

mod connecting {
    use super::script;

    const SYN: &str = "> S 0 mss=1460 ws=7";

    #[test]
    fn repeated_syn_is_ignored() {
        script(&[SYN, "> S 0 mss=1460 ws=7 -x BadSyn"]);
    }

    #[test]
    fn syn_of_a_new_attempt_takes_the_place_of_the_old() {
        script(&[SYN, "> S 5000 mss=1460", "! connected", "< SA 0 ack=5001 mss=1000"]);
    }

    #[test]
    fn rfc9293_3_10_7_4_ack_of_nothing_sent_is_reset_alone() {
        for seg in ["> A 1 ack=1", "> SA 0 ack=1", "> FA 1 ack=1", "> A 1+5 ack=1"] {
            let seg = format!("{seg} -x BadAck");
            script(&[SYN, &seg, "< R 1", "! connected", "< SA 0 ack=1 mss=1000 ws=8"]);
        }
    }

    #[test]
    fn data_or_fin_without_ack_is_dropped() {
        script(&[SYN, "> - 1+5 -x NoAck", "> F 1 -x NoAck"]);
    }

    #[test]
    fn guests_reset_closes_with_reset() {
        script(&[SYN, "> R 1", "reset"]);
    }

    #[test]
    fn rfc5961_3_inexact_reset_is_dropped() {
        script(&[SYN, "> R 2 -x BadReset", "> R 0 -x BadReset"]);
    }

    #[test]
    fn refused_connect_resets_the_guest() {
        script(&[SYN, "! failed", "< RA 0 ack=1", "reset"]);
        script(&[SYN, "! hungup", "< RA 0 ack=1", "reset"]);
    }

    #[test]
    fn what_the_socket_says_early_is_kept() {
        script(&[
            SYN,
            "! readable",
            "! connected",
            "< SA 0 ack=1 mss=1000 ws=8",
            "> A 1 ack=1 win=79",
            "data 0 8760 1
             = drained 10",
        ]);
    }

    #[test]
    fn has_no_timer_of_its_own_but_inactivity() {
        script(&[SYN, "t 7199000", "t 1000", "< RA 0 ack=1", "reset"]);
    }
}

mod syn_ack_sent {
    use super::{OUTBOUND, play, script};

    #[test]
    fn repeated_syn_gets_the_same_syn_ack() {
        script(&[OUTBOUND, "> S 0 mss=1460 ws=7 -x BadSyn", "< SA 0 ack=1 mss=1000 ws=8"]);
    }

    #[test]
    fn rfc5961_4_other_syn_gets_a_challenge() {
        script(&[OUTBOUND, "> S 700 -x OutsideWindow", "< A 1 ack=1"]);
    }

    #[test]
    fn ack_establishes() {
        script(&[OUTBOUND, "> A 1 ack=1"]);
        script(&[OUTBOUND, "> SA 0 ack=1", "< A 1 ack=1"]);
    }

    #[test]
    fn ack_with_data_and_fin_is_taken_whole() {
        script(&[OUTBOUND, "> FA 1+20 ack=1 -> 0 20", "w 20", "shutdown", "t 5", "< A 1 ack=22"]);
    }

    #[test]
    fn rfc9293_3_10_7_4_unacceptable_ack_is_reset_alone() {
        script(&[OUTBOUND, "> A 1 ack=0 -x BadAck", "< R 0", "> A 1 ack=2 -x BadAck", "< R 2"]);
    }

    #[test]
    fn segment_without_ack_is_dropped() {
        script(&[OUTBOUND, "> - 1+5 -x NoAck"]);
    }

    #[test]
    fn guests_reset_closes_with_reset() {
        script(&[OUTBOUND, "> R 1", "reset"]);
    }

    #[test]
    fn data_from_the_socket_waits_for_the_ack() {
        script(&[OUTBOUND, "! readable", "> A 1 ack=1 win=79", "data 0 8760 1", "= drained 5"]);
    }

    #[test]
    fn failure_resets_both() {
        script(&[OUTBOUND, "! failed", "< RA 1 ack=1", "reset"]);
        script(&[OUTBOUND, "! hungup", "< RA 1 ack=1", "reset"]);
    }

    #[test]
    fn timer_repeats_it_with_the_same_number_then_resets() {
        let mut player = play(OUTBOUND);
        for ms in [1000, 1000, 1000, 1000, 1000, 2000, 4000] {
            player.go_on(&format!("t {}", ms - 1));
            player.go_on("t 1\n< SA 0 ack=1 mss=1000 ws=8");
        }
        player.go_on("t 8000\n< RA 1 ack=1\nreset");
    }

    #[test]
    fn rfc7323_2_2_no_scale_unless_the_guest_offers_it() {
        script(&["> S 0", "! connected", "< SA 0 ack=1 mss=1000"]);
    }

    #[test]
    fn rfc9293_3_7_1_segment_size_is_536_unless_stated() {
        for (option, segment) in [("", 536), ("mss=1", 48), ("mss=65535", 2000)] {
            let mut player = play(&format!("> S 0 {option}"));
            assert_eq!(player.conn().guest_mss(), segment, "{option}");
        }
    }
}

mod syn_sent {
    use super::{INBOUND, play, script};

    #[test]
    fn syn_ack_establishes() {
        script(&[INBOUND, "> SA 0 ack=1 mss=1460 ws=7", "< A 1 ack=1 win=195"]);
    }

    #[test]
    fn syn_ack_without_scale_turns_ours_off() {
        script(&[INBOUND, "> SA 0 ack=1 mss=1460", "< A 1 ack=1 win=50000"]);
    }

    #[test]
    fn early_data_goes_out_after_the_handshake() {
        script(&[
            INBOUND,
            "! readable
             > SA 0 ack=1 mss=1460
             data 0 8760 1
             = drained 100",
        ]);
        script(&[
            INBOUND,
            "! readable
             > SA 0 ack=1 mss=1460
             data 0 8760 1
             = empty
             < A 1 ack=1",
        ]);
    }

    #[test]
    fn data_and_fin_of_a_syn_ack_are_taken() {
        script(&[INBOUND, "> FSA 0+9 ack=1 -> 0 9", "w 9", "shutdown", "t 5", "< A 1 ack=11"]);
    }

    #[test]
    fn rfc9293_3_5_both_may_open_at_once() {
        script(&[
            INBOUND,
            "> S 0 mss=1460
             < SA 0 ack=1 mss=1000
             > SA 0 ack=1 mss=1460
             < A 1 ack=1",
        ]);
    }

    #[test]
    fn rfc9293_3_10_7_3_unacceptable_ack_is_reset_alone() {
        let again = "< S 0 mss=1000 ws=8";
        for seg in ["> SA 0 ack=7", "> A 5 ack=7", "> A 5+9 ack=7", "> FA 5 ack=7"] {
            script(&[INBOUND, &format!("{seg} -x BadAck"), "< R 7", again]);
        }
        script(&[INBOUND, "> A 5 ack=0 -x BadAck", "< R 0", again]);
    }

    #[test]
    fn who_knows_an_older_connection_gets_the_syn_again_behind_the_reset() {
        // In TIME-WAIT (RFC 9293, 3.10.7.4), or established (RFC 5961, 4): the reset ends it.
        let old = "> A 7000 ack=-5000 -x BadAck\n< R -5000";
        let again = "< S 0 win=50000 mss=1000 ws=8";
        script(&[INBOUND, old, again, "> SA 0 ack=1 mss=1460", "< A 1 ack=1"]);
        // Once, until the timer repeats it: two ends must not answer each other for ever.
        script(&[INBOUND, old, again, old, old, "t 1000", again, old, again, old]);
    }

    #[test]
    fn an_acknowledgement_that_crosses_the_syn_does_no_harm() {
        script(&[
            INBOUND,
            "> A 7000 ack=-5000 -x BadAck
             < R -5000
             < S 0 mss=1000 ws=8
             > SA 0 ack=1 mss=1460
             < A 1 ack=1
             > SA 0 ack=1 mss=1460 -x BadSyn
             < A 1 ack=1",
        ]);
    }

    #[test]
    fn without_syn_it_is_dropped() {
        script(&[INBOUND, "> A 1+5 ack=1 -x BadSyn", "> FA 1 ack=1 -x BadSyn", "> F 1 -x BadSyn"]);
    }

    #[test]
    fn refusal_closes_with_reset() {
        script(&[INBOUND, "> RA 0 ack=1", "reset"]);
    }

    #[test]
    fn rfc9293_3_10_7_3_reset_without_our_number_is_dropped() {
        script(&[INBOUND, "> R 1 -x BadReset", "> RA 0 ack=2 -x BadReset"]);
    }

    #[test]
    fn client_that_goes_away_resets_the_guest() {
        script(&[INBOUND, "! failed", "< R 1", "reset"]);
        script(&[INBOUND, "! hungup", "< R 1", "reset"]);
    }

    #[test]
    fn timer_repeats_it_with_the_same_number_then_resets() {
        let mut player = play(INBOUND);
        for ms in [1000, 1000, 1000, 1000, 1000, 2000, 4000] {
            player.go_on(&format!("t {ms}\n< S 0 mss=1000 ws=8"));
        }
        player.go_on("t 8000\n< R 1\nreset");
    }

    #[test]
    fn rfc6298_5_7_a_lost_syn_makes_the_first_timeout_longer() {
        script(&[
            INBOUND,
            "t 1000
             < S 0 mss=1000 ws=8
             > SA 0 ack=1 mss=1460
             < A 1 ack=1
             ! readable
             data 0 8760 1
             = drained 100
             t 2999
             t 1
             data 0 1460 1
             = sent 100",
        ]);
    }
}

mod established {
    use super::{IN_FLIGHT, OPEN, script};

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
            "> A 0 ack=1 -x Old",
            "< A 1 ack=1",
            "t 140",
            "> A 0+1 ack=1 -x Old",
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
        script(&[
            OPEN,
            "! readable",
            "> A 1+10 ack=1 -> 0 10",
            "w 10",
            "data 0 8760 1",
            "= drained 5",
        ]);
    }

    #[test]
    fn failed_socket_resets_both() {
        script(&[OPEN, IN_FLIGHT, "! failed", "< RA 3001 ack=1", "reset"]);
        script(&[OPEN, "! readable", "data 0 8760 1", "= failed", "< RA 1 ack=1", "reset"]);
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
}

/// A guest whose machine was set back to a snapshot, and guests that only look like one.
mod set_back {
    use super::{IN_FLIGHT, OPEN, script};

    /// The guest has 3,000 bytes, and the peer sends 500 more.
    const DOWNLOAD: &str = "
        > A 1 ack=3001
        discard 3000
        ! readable
        data 0 8760 3001
        = drained 500";

    /// The peer has 500 bytes of the guest.
    const UPLOAD: &str = "
        > A 1+500 ack=1 -> 0 500
        w 500
        < A 1 ack=501";

    /// The guest sends what the peer has, twice, and is asked how far it is.
    const OLD_TWICE: &str = "
        > A 101+100 ack=1 -x Old
        < A 1 ack=501
        t 2200
        > A 101+100 ack=1 -x Old
        < A 0 ack=501
        < A 1 ack=501";

    #[test]
    fn in_a_download_it_answers_what_is_sent_again_with_less_than_it_had() {
        script(&[
            OPEN,
            IN_FLIGHT,
            DOWNLOAD,
            "> A 1 ack=1001
             > A 1 ack=1001
             t 1000
             data 0 1460 3001
             = sent 500
             > A 1 ack=1001
             t 2000
             data 0 1460 3001
             = sent 500
             > A 1 ack=1001 -x BadAck
             < RA 3501 ack=1
             reset",
        ]);
    }

    #[test]
    fn a_question_of_it_acknowledges_less_than_it_had() {
        script(&[
            OPEN,
            IN_FLIGHT,
            "> A 1 ack=3001
             discard 3000
             > A 1+5 ack=1001 -> 0 5
             w 5
             < A 3001 ack=6
             t 2200
             > A 6+5 ack=1001 -x BadAck
             < RA 3001 ack=6
             reset",
        ]);
    }

    #[test]
    fn in_an_upload_it_is_behind_what_it_has_sent() {
        script(&[OPEN, UPLOAD, OLD_TWICE, "> A 201 ack=1 -x Old", "< RA 1 ack=501", "reset"]);
    }

    #[test]
    fn in_both_directions_it_is_behind() {
        script(&[
            OPEN,
            IN_FLIGHT,
            "> A 1+500 ack=3001 -> 0 500
             w 500
             discard 3000
             < A 3001 ack=501
             > A 101+100 ack=1001 -x Old
             < A 3001 ack=501
             t 2200
             > A 101+100 ack=1001 -x Old
             < RA 3001 ack=501
             reset",
        ]);
    }

    #[test]
    fn who_acknowledges_what_was_never_sent_and_insists_is_reset() {
        let never = "> A 1 ack=2 -x BadAck";
        script(&[OPEN, never, "< A 1 ack=1", "t 2200", never, "< RA 1 ack=1", "reset"]);
        // Not elsewhere than at the next byte: somebody may only guess (RFC 5961, section 5).
        let elsewhere = "> A 2 ack=2 -x BadAck\n< A 1 ack=1\nt 2200";
        script(&[OPEN, elsewhere, elsewhere, elsewhere]);
    }

    #[test]
    fn who_gets_no_acknowledgement_and_then_answers_the_probe_is_not() {
        let sane = "> A 501 ack=1";
        script(&[OPEN, UPLOAD, OLD_TWICE, sane, OLD_TWICE, sane]);
        // What was late is no contradiction to what comes behind it.
        script(&[OPEN, UPLOAD, OLD_TWICE, sane, "> A 201 ack=1 -x Old", "< A 1 ack=501"]);
    }

    #[test]
    fn an_acknowledgement_that_comes_late_does_no_harm() {
        let late = "> A 1 ack=1001";
        script(&[
            OPEN,
            IN_FLIGHT,
            DOWNLOAD,
            late,
            "t 900",
            late,
            "> A 1 ack=3501
             discard 500
             ! readable
             data 0 8760 3501
             = drained 10",
            late,
            "t 1000
             data 0 1460 3501
             = sent 10
             > A 1 ack=3511
             discard 10",
        ]);
    }

    #[test]
    fn where_the_link_has_told_the_first_contradiction_is_enough() {
        let told = "setback\n< A 0 ack=501";
        // The probe is answered from behind what was received; or it sends that again, or less is acknowledged.
        script(&[OPEN, UPLOAD, told, "> A 201 ack=1 -x Old", "< RA 1 ack=501", "reset"]);
        script(&[OPEN, UPLOAD, told, "> A 101+9 ack=1 -x Old", "< A 0 ack=501", "< A 1 ack=501"]);
        let told = "setback\n< A 3000 ack=1";
        let had = [OPEN, IN_FLIGHT, "> A 1 ack=3001\ndiscard 3000", told].join("\n");
        script(&[&had, "> A 1 ack=1001 -x BadAck", "< RA 3001 ack=1", "reset"]);
        script(&[&had, "> A 1+9 ack=1001 -x BadAck", "< RA 3001 ack=1", "reset"]);
    }

    #[test]
    fn where_the_link_has_told_who_agrees_is_believed() {
        let told = "setback\n< A 0 ack=501";
        script(&[OPEN, UPLOAD, told, "> A 501 ack=1", "> A 201 ack=1 -x Old", "< A 1 ack=501"]);
        // A handshake goes on or is begun again as ever.
        script(&[super::OUTBOUND, "setback", "> A 1 ack=1"]);
        script(&[super::INBOUND, "setback", "> SA 0 ack=1", "< A 1 ack=1"]);
    }

    #[test]
    fn keepalive_probes_are_no_contradiction() {
        let probe = "> A 500 ack=1 -x Old\n< A 1 ack=501\nt 2200";
        script(&[OPEN, UPLOAD, probe, probe, probe]);
    }

    #[test]
    fn rfc5961_who_guesses_numbers_far_away_does_not_count() {
        let guess = "> A -20000000 ack=1 -x Old\n< A 1 ack=501\nt 2200";
        script(&[OPEN, UPLOAD, guess, guess, guess]);
        let guess = "> A 201 ack=-20000000 -x Old\n< A 1 ack=501\nt 2200";
        script(&[OPEN, UPLOAD, guess, guess, guess]);
    }
}

mod recovery {
    use super::{IN_FLIGHT, OPEN, play, script};

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
             t 1
             data 0 1460 1
             = sent 1460
             > A 1 ack=1461
             discard 1460
             data 0 8760 1461
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

    #[test]
    fn vanished_data_resets_rather_than_lies() {
        script(&[OPEN, IN_FLIGHT, "t 1000", "data 0 1460 1", "= eof", "< RA 3001 ack=1", "reset"]);
        script(&[
            OPEN,
            IN_FLIGHT,
            "t 1000",
            "data 0 1460 1",
            "= empty",
            "< RA 3001 ack=1",
            "reset",
        ]);
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
}

mod guest_closed {
    use super::{GUEST_CLOSED, OPEN, script};

    #[test]
    fn more_data_is_ignored() {
        script(&[OPEN, GUEST_CLOSED, "> A 2+10 ack=1 -x AfterFin"]);
    }

    #[test]
    fn repeated_fin_is_acknowledged() {
        script(&[OPEN, GUEST_CLOSED, "> FA 1 ack=1 -x Old", "< A 1 ack=2"]);
    }

    #[test]
    fn peer_may_go_on_sending_then_close() {
        script(&[
            OPEN,
            GUEST_CLOSED,
            "t 3600000
             < A 0 ack=2
             ! readable
             data 0 8760 1
             = drained 100
             > A 2 ack=101
             discard 100
             ! peerclosed
             data 0 8760 101
             = eof
             < FA 101 ack=2
             > A 2 ack=102
             close",
        ]);
    }

    #[test]
    fn reset_and_failure_close() {
        script(&[OPEN, GUEST_CLOSED, "> R 2", "reset"]);
        script(&[OPEN, GUEST_CLOSED, "! failed", "< RA 1 ack=2", "reset"]);
    }

    #[test]
    fn writable_means_nothing_any_more() {
        script(&[OPEN, GUEST_CLOSED, "! writable"]);
    }

    #[test]
    fn rfc5961_4_syn_gets_a_challenge() {
        script(&[OPEN, GUEST_CLOSED, "> S 9 -x BadSyn", "< A 1 ack=2"]);
    }
}

mod peer_closed {
    use super::{GUEST_CLOSED, OPEN, PEER_CLOSED, script};

    #[test]
    fn guest_may_go_on_sending_then_close() {
        script(&[
            OPEN,
            PEER_CLOSED,
            "> A 1 ack=2
             > A 1+10 ack=2 -> 0 10
             w 10
             < A 2 ack=11
             > FA 11 ack=2
             shutdown
             < A 2 ack=12
             close",
        ]);
    }

    #[test]
    fn rfc9293_3_6_both_may_close_at_once() {
        script(&[
            OPEN,
            PEER_CLOSED,
            "> FA 1 ack=1",
            "shutdown",
            "< A 2 ack=2",
            "> A 2 ack=2",
            "close",
        ]);
    }

    #[test]
    fn data_with_the_last_ack_of_our_fin_is_taken() {
        script(&[
            OPEN,
            PEER_CLOSED,
            "> FA 1+5 ack=2 -> 0 5",
            "w 5",
            "shutdown",
            "< A 2 ack=7",
            "close",
        ]);
    }

    #[test]
    fn guests_fin_first_closes_at_its_ack_of_ours() {
        script(&[
            OPEN,
            GUEST_CLOSED,
            "! peerclosed
             data 0 8760 1
             = eof
             < FA 1 ack=2
             > A 2 ack=2
             close",
        ]);
    }

    #[test]
    fn reset_and_failure_close() {
        script(&[OPEN, PEER_CLOSED, "> R 1", "reset"]);
        script(&[OPEN, PEER_CLOSED, "! failed", "< RA 2 ack=1", "reset"]);
    }

    #[test]
    fn later_events_of_the_socket_change_nothing() {
        script(&[OPEN, PEER_CLOSED, "! hungup", "! readable", "! peerclosed"]);
    }

    #[test]
    fn rfc9293_3_8_6_fin_waits_for_a_closed_window() {
        script(&[
            OPEN,
            "> A 1 ack=1 win=0
             ! peerclosed
             > A 1 ack=1 win=100
             data 0 100 1
             = eof
             < FA 1 ack=1",
        ]);
    }
}

mod closed {
    use super::{OPEN, script};

    #[test]
    fn nothing_happens_any_more() {
        script(&[
            OPEN,
            "> R 1
             reset
             > A 1 ack=1 -x Closed
             ! readable
             port
             t 100000",
        ]);
    }

    #[test]
    fn abort_resets_both() {
        let mut player = super::play(OPEN);
        player.conn().abort();
        player.go_on("< RA 1 ack=1\nreset");
    }
}

#[test]
fn a_connection_fits_two_cache_lines() {
    let bytes = size_of::<passt::flow::tcp::Conn>();
    assert!(bytes <= 128, "{bytes} bytes");
}
