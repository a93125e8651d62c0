//! A guest whose machine was set back to a snapshot, and guests that only look like one.

use crate::{IN_FLIGHT, OPEN, script};

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
    let probe = "> A 500 ack=1 -x Keepalive\n< A 1 ack=501\nt 2200";
    script(&[OPEN, UPLOAD, probe, probe, probe]);
}

#[test]
fn rfc5961_who_guesses_numbers_far_away_does_not_count() {
    let guess = "> A -20000000 ack=1 -x Old\n< A 1 ack=501\nt 2200";
    script(&[OPEN, UPLOAD, guess, guess, guess]);
    let guess = "> A 201 ack=-20000000 -x Old\n< A 1 ack=501\nt 2200";
    script(&[OPEN, UPLOAD, guess, guess, guess]);
}
