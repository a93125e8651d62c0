//! Before both sides are open.

mod connecting {
    use crate::script;

    const SYN: &str = "> S 0 mss=1460 ws=7";

    #[test]
    fn repeated_syn_is_ignored() {
        script(&[SYN, "> S 0 mss=1460 ws=7 -x BadSyn"]);
    }

    #[test]
    fn a_segment_size_of_0_is_none() {
        for (stated, data) in [("", 9648), (" mss=0", 9648), (" mss=1", 9984), (" mss=536", 9648)] {
            let syn = format!("> S 0{stated} win=10000");
            let ask = format!("data 0 {data} 1\n= drained 10");
            let answer = "< SA 0 ack=1 mss=1000";
            script(&[&syn, "! connected", answer, "> A 1 ack=1", "! readable", &ask]);
        }
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
    use crate::{OUTBOUND, play, script};

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
        let answers = "
            ! failed
            ! hungup
            > A 1 ack=1 win=78
            data 0 8760 1
            = drained 300
            data 300 8760 301
            = failed
            > A 1 ack=301 win=78
            discard 300
            data 0 8760 301
            = failed
            < RA 301 ack=1
            reset";
        script(&[OUTBOUND, answers]);
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
    use crate::{INBOUND, play, script};

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
    fn what_a_client_has_sent_before_it_goes_away_arrives() {
        let sent = "
            ! readable
            ! failed
            ! hungup
            queue 300
            > SA 0 ack=1 mss=1460 ws=7 win=10000
            queue 300
            data 0 8760 1
            = drained 300";
        let rest = "
            data 300 8760 301
            = failed
            > A 1 ack=301 win=78
            discard 300
            data 0 8760 301
            = failed
            < RA 301 ack=1
            reset";
        script(&[INBOUND, sent, rest]);
        // Once it has all of that and no more room, it is told at once.
        let without_room = "
            ! failed
            queue 300
            > SA 0 ack=1 mss=1460 win=300
            data 0 300 1
            = sent 300
            > A 1 ack=301 win=0
            discard 300
            < RA 301 ack=1
            reset";
        script(&[INBOUND, without_room]);
    }

    #[test]
    fn rfc7323_2_2_the_window_of_a_syn_is_not_scaled() {
        let answer = "> SA 0 ack=1 mss=1000 ws=7 win=10000";
        script(&[INBOUND, "! readable", answer, "data 0 9000 1", "= drained 1"]);
        // Both open at once.
        let both = "> S 0 mss=1000 ws=7 win=10000\n< SA 0 ack=1 mss=1000 ws=8";
        script(&[
            INBOUND,
            "! readable",
            both,
            answer,
            "< A 1 ack=1",
            "data 0 9000 1",
            "= drained 1",
        ]);
    }

    #[test]
    fn client_that_goes_away_resets_the_guest() {
        script(&[INBOUND, "! failed", "! hungup", "queue 0", "< R 1", "reset"]);
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
             data 99 1 100
             = sent 1
             t 1
             data 0 1460 1
             = sent 100",
        ]);
    }
}
