//! One side has closed, or both have.

mod guest_closed {
    use crate::{GUEST_CLOSED, OPEN, script};

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
        script(&[
            OPEN,
            GUEST_CLOSED,
            "! failed
             data 0 8760 1
             = failed
             < RA 1 ack=2
             reset",
        ]);
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
    use crate::{GUEST_CLOSED, OPEN, PEER_CLOSED, script};

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
        script(&[OPEN, PEER_CLOSED, "! failed", "> A 1 ack=2", "< RA 2 ack=1", "reset"]);
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
    use crate::{OPEN, play, script};

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
        let mut player = play(OPEN);
        player.conn().abort();
        player.go_on("< RA 1 ack=1\nreset");
    }
}
