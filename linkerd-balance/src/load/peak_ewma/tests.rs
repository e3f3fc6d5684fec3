use super::*;

const MS: Duration = Duration::from_millis(1);
const DECAY: Duration = Duration::from_secs(10);

fn ewma() -> PeakEwma {
    PeakEwma::new(DECAY).unwrap()
}

/// One request that takes `latency` and ends at `end`.
fn observe(load: &PeakEwma, end: Instant, latency: Duration, success: bool) {
    let begun = end.checked_sub(latency).unwrap();
    load.begin(begun);
    load.end(begun, end, success);
}

fn assert_close(a: f64, b: f64) {
    assert!((a - b).abs() <= b.abs() * 1e-9, "{a} is not {b}");
}

#[test]
fn a_peak_counts_at_once_and_a_lower_latency_by_the_time_since() {
    let (load, start) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, start, 10 * MS, true);
    assert_close(load.score(start, 1.0, 0), nanos(10 * MS));
    observe(&load, start + MS, 100 * MS, true);
    assert_close(load.score(start + MS, 1.0, 0), nanos(100 * MS));

    let later = start + MS + DECAY;
    observe(&load, later, 10 * MS, true);
    let w = (-1.0_f64).exp();
    assert_close(load.score(later, 1.0, 0), nanos(100 * MS) * w + nanos(10 * MS) * (1.0 - w));
}

#[test]
fn what_was_given_up_took_at_least_so_long() {
    let (load, start) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    let give_up = |load: &PeakEwma, waited, now: Instant| {
        load.begin(start);
        load.cancel_at(now.checked_sub(waited).unwrap(), now, false);
    };
    observe(&load, start, 10 * MS, true);
    give_up(&load, 9 * MS, start);
    assert_close(load.typical(start).unwrap(), nanos(10 * MS));
    give_up(&load, 1000 * MS, start);
    assert_eq!(load.pending(), 0);
    assert_close(load.typical(start).unwrap(), nanos(1000 * MS));
    // What it is by then is what counts.
    give_up(&load, 999 * MS, start + DECAY);
    assert_close(load.typical(start + DECAY).unwrap(), nanos(999 * MS));

    let uncounted = ewma().measure(Measure::PendingOnly);
    let idle = uncounted.score(start, 1.0, 0);
    give_up(&uncounted, 1000 * MS, start);
    assert_close(uncounted.score(start, 1.0, 0), idle);
}

#[test]
fn of_an_endpoint_that_never_answered_it_is_a_guess() {
    let (load, start) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    load.begin(start);
    load.cancel_at(start, start + MS / 2, false);
    assert_eq!(load.score(start, 1.0, 0), 0.0, "as cold as before");
    load.begin(start);
    load.cancel_at(start, start + 1000 * MS, false);
    let now = start + 1000 * MS;
    assert_close(load.score(now, 1.0, 0), nanos(1000 * MS));
    assert_eq!(load.typical(now), None);
    observe(&load, now, MS, true);
    assert_close(load.typical(now).unwrap(), nanos(MS));
}

#[test]
fn an_idle_endpoint_is_forgiven_with_time() {
    let (load, start) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, start, 1000 * MS, true);
    assert_close(load.score(start + 3 * DECAY, 1.0, 0), nanos(1000 * MS) * (-3.0_f64).exp());
}

#[test]
fn reading_changes_nothing() {
    let (read, unread, start) = (ewma(), ewma(), tokio::time::Instant::now().into_std() + DECAY);
    for load in [&read, &unread] {
        observe(load, start, 100 * MS, true);
    }
    for ms in 0..1000 {
        let _ = read.score(start + ms * MS, 1.0, 0);
    }
    for load in [&read, &unread] {
        observe(load, start + 1000 * MS, 10 * MS, true);
    }
    assert_eq!(read.score(start + DECAY, 1.0, 0), unread.score(start + DECAY, 1.0, 0));
}

#[test]
fn requests_in_flight_multiply() {
    let (load, now) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now, 10 * MS, true);
    load.begin(now);
    load.begin(now);
    assert_close(load.score(now, 1.0, 0), nanos(30 * MS));
    assert_close(load.score(now, 2.0, 0), nanos(20 * MS));
}

#[test]
fn a_cold_endpoint_is_tried_by_one_request_at_a_time() {
    let (cold, slow, now) = (ewma(), ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&slow, now, DECAY, true);
    slow.begin(now);
    assert_eq!(cold.score(now, 1.0, 0), 0.0);
    cold.begin(now);
    assert_eq!(cold.score(now, 1.0, 0), 140_737_488_355_327.0 + 1.0);
    assert!(cold.score(now, 1.0, 0) > slow.score(now, 1.0, 0));
    cold.end(now, now + MS, true);
    assert_close(cold.score(now + MS, 1.0, 0), nanos(MS));
}

#[test]
fn failing_fast_does_not_look_fast() {
    let (load, now) = (ewma().failure_penalty(1000 * MS), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now, MS, false);
    assert_close(load.score(now, 1.0, 0), nanos(1000 * MS));
    observe(&load, now, 2000 * MS, false);
    assert_close(load.score(now, 1.0, 0), nanos(2000 * MS));

    let off = ewma().failure_penalty(Duration::ZERO);
    observe(&off, now, MS, false);
    assert_close(off.score(now, 1.0, 0), nanos(MS));
    let default = PeakEwma::default();
    observe(&default, now, MS, false);
    assert_close(default.score(now, 1.0, 0), nanos(5000 * MS));
    assert_close(default.score(now + 4999 * MS, 1.0, 0), nanos(MS));
    assert_eq!(default.score(now + 5000 * MS, 1.0, 0), 0.0, "of its latency nothing is known");
}

#[test]
fn a_failure_leaves_the_average_alone_unless_it_took_long() {
    let (load, now) = (PeakEwma::default(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now, 10 * MS, true);
    observe(&load, now, MS, false);
    assert_close(load.typical(now).unwrap(), nanos(10 * MS));
    observe(&load, now, 6000 * MS, false);
    assert_close(load.typical(now).unwrap(), nanos(6000 * MS));
}

#[test]
fn the_head_may_be_the_end_of_the_measure_and_is_not_the_end_of_the_request() {
    let now = tokio::time::Instant::now().into_std() + 10 * DECAY;
    let at = |mark, measure, after| {
        let load = ewma().measure(measure);
        load.begin(now);
        (load.mark(now, now + after, mark), load.typical(now + after).map(|nanos| nanos as u64 / 1_000_000), load)
    };
    for (mark, measure, after, taken, sample) in [
        (Mark::Headers, Measure::Headers, 3 * MS, true, Some(3)),
        (Mark::FirstByte, Measure::Headers, 3 * MS, true, Some(3)),
        (Mark::Headers, Measure::FirstByte, 3 * MS, false, None),
        (Mark::FirstByte, Measure::FirstByte, 3 * MS, true, Some(3)),
        (Mark::Headers, Measure::EndOfStream, 3 * MS, false, None),
        (Mark::FirstByte, Measure::EndOfStream, 3 * MS, false, None),
        (Mark::Headers, Measure::PendingOnly, 3 * MS, false, None),
        // Beyond ten seconds: a slow answer, or a long stream.
        (Mark::Headers, Measure::Headers, 11_000 * MS, true, Some(11_000)),
        (Mark::Headers, Measure::EndOfStream, 10_000 * MS, false, None),
        (Mark::Headers, Measure::EndOfStream, 10_001 * MS, true, Some(10_001)),
        (Mark::Headers, Measure::FirstByte, 10_001 * MS, true, Some(10_001)),
        (Mark::FirstByte, Measure::FirstByte, 10_001 * MS, true, None),
        (Mark::FirstByte, Measure::EndOfStream, 10_001 * MS, false, None),
    ] {
        let (took, observed, load) = at(mark, measure, after);
        assert_eq!((took, observed), (taken, sample), "{mark:?} {measure:?} {after:?}");
        assert_eq!(load.pending(), 1);
    }
}

#[test]
fn a_long_stream_is_no_slow_answer() {
    let now = tokio::time::Instant::now().into_std() + 10 * DECAY;
    for (measure, took, counts) in [
        (Measure::Headers, 10_001, true),
        (Measure::FirstByte, 10_000, true),
        (Measure::FirstByte, 10_001, false),
        (Measure::EndOfStream, 10_000, true),
        (Measure::EndOfStream, 10_001, false),
        (Measure::PendingOnly, 1, false),
    ] {
        let load = ewma().measure(measure);
        observe(&load, now, took * MS, true);
        assert_eq!(load.typical(now).is_some(), counts, "{measure:?} {took}");
        assert_eq!(load.pending(), 0);
    }
    let all = ewma().measure(Measure::EndOfStream).long_stream(Duration::ZERO);
    observe(&all, now, MS, true);
    assert_eq!(all.typical(now), None);
}

#[test]
fn without_a_measure_requests_and_failures_count() {
    let (load, now) = (ewma().measure(Measure::PendingOnly), tokio::time::Instant::now().into_std() + DECAY);
    let idle = load.score(now, 1.0, 0);
    load.begin(now);
    load.begin(now);
    assert_close(load.score(now, 1.0, 0), 3.0 * idle);
    observe(&load, now, MS, false);
    assert!(load.score(now, 1.0, 0) > 1_000.0 * idle);
    load.start_from(1e9, now);
    assert_eq!(load.typical(now), None);
}

#[test]
fn a_newcomer_starts_like_the_others_until_it_is_known() {
    let (load, now) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    assert_eq!(load.typical(now), None);
    for absurd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        load.start_from(absurd, now);
        assert_eq!(load.score(now, 1.0, 0), 0.0);
    }
    load.start_from(nanos(20 * MS), now);
    assert_close(load.score(now, 1.0, 0), nanos(20 * MS));
    assert_close(load.score(now, 1.0, 1), nanos(40 * MS));
    assert_close(load.score(now + DECAY, 1.0, 0), nanos(20 * MS) * (-1.0_f64).exp());
    assert_eq!(load.typical(now), None, "a guess is nothing to guess from");

    observe(&load, now + MS, MS, true);
    assert_close(load.score(now + MS, 1.0, 0), nanos(MS));
    assert_close(load.typical(now + MS + DECAY).unwrap(), nanos(MS) * (-1.0_f64).exp());
    load.start_from(nanos(20 * MS), now + MS);
    assert_close(load.score(now + MS, 1.0, 0), nanos(MS));
}

#[test]
fn a_start_of_its_own_gives_way_to_what_the_others_are_like() {
    let load = ewma().start_latency(1000 * MS);
    let now = tokio::time::Instant::now().into_std();
    assert!((load.score(now, 1.0, 0) / nanos(1000 * MS) - 1.0).abs() < 0.01);
    load.start_from(nanos(MS), now);
    assert_close(load.score(now, 1.0, 0), nanos(MS));
    assert_eq!(ewma().start_latency(Duration::ZERO).score(now, 1.0, 0), 0.0);
}

#[test]
fn reset_forgets_what_was_learned_and_not_what_is_in_flight() {
    let (load, now) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now, 10 * MS, true);
    observe(&load, now, MS, false);
    load.hint(Hint::Backoff(DECAY), now);
    load.hint(Hint::Utilization(0.9), now);
    load.begin(now);
    load.reset();
    assert_eq!((load.pending(), load.typical(now)), (1, None));
    assert_eq!(load.score(now, 1.0, 0), COLD + 1.0);
    load.end(now, now + MS, true);
    assert_close(load.score(now + MS, 1.0, 0), nanos(MS));
}

#[test]
fn a_cancelled_request_teaches_nothing() {
    let (load, now) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now, 10 * MS, true);
    load.begin(now);
    load.cancel();
    assert_eq!(load.pending(), 0);
    assert_close(load.score(now, 1.0, 0), nanos(10 * MS));
}

#[test]
fn an_end_that_comes_late_does_not_turn_back_the_clock() {
    let (load, now) = (ewma(), tokio::time::Instant::now().into_std() + DECAY);
    observe(&load, now + DECAY, 10 * MS, true);
    observe(&load, now, 5 * MS, true);
    assert_close(load.score(now + DECAY, 1.0, 0), nanos(10 * MS));
}

#[test]
fn a_decay_out_of_range_is_refused_by_name() {
    let refused = |decay| PeakEwma::new(decay).unwrap_err().to_string();
    assert_eq!(refused(Duration::ZERO), "the decay 0ns is not from 1ms to 86400s");
    assert_eq!(refused(MS.saturating_sub(Duration::from_nanos(1))), "the decay 999.999µs is not from 1ms to 86400s");
    assert_eq!(refused(PeakEwma::MAX_DECAY + MS), "the decay 86400.001s is not from 1ms to 86400s");
    assert!(PeakEwma::new(MS).is_ok() && PeakEwma::new(PeakEwma::MAX_DECAY).is_ok());
}
