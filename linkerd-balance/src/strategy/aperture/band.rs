//! How wide the load wants an aperture to be.

use std::time::{Duration, Instant};

/// Load, smoothed, and the width that keeps it in its band. Pure: the time and the load come in.
#[derive(Clone, Debug)]
pub(super) struct Band {
    low: f64,
    high: f64,
    window_secs: f64,
    min: usize,
    max: usize,
    // Requests in flight in the aperture, averaged.
    in_flight: f64,
    // None before the first sample.
    stamp: Option<Instant>,
    width: usize,
}

/// What an [`observe`](Band::observe) led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Wider,
    Narrower,
}

impl Band {
    pub(super) fn new(low: f64, high: f64, window: Duration, min: usize, max: usize) -> Self {
        Self { low, high, window_secs: window.as_secs_f64(), min, max, in_flight: 0.0, stamp: None, width: min }
    }

    pub(super) const fn width(&self) -> usize {
        self.width
    }

    /// Requests in flight in the whole aperture, averaged over the window.
    pub(super) const fn in_flight(&self) -> f64 {
        self.in_flight
    }

    /// At `now`, so many requests are in flight in the aperture; before, it was `held` of them.
    ///
    /// Those are taken to have been in flight since the last look, for a window at most: nobody looks while nobody asks.
    pub(super) fn observe(&mut self, now: Instant, held: usize, in_flight: usize) -> Change {
        let before = self.width;
        let elapsed = self.stamp.map_or(0.0, |stamp| now.saturating_duration_since(stamp).as_secs_f64());
        self.stamp = self.stamp.max(Some(now));
        let known = elapsed.min(self.window_secs);
        self.pass(known, held);
        self.pass(elapsed - known, in_flight);
        match self.width {
            width if width > before => Change::Wider,
            width if width < before => Change::Narrower,
            _ => Change::None,
        }
    }

    /// So many requests were in flight for so long.
    fn pass(&mut self, secs: f64, in_flight: usize) {
        let kept = (-secs / self.window_secs).exp();
        self.in_flight = self.in_flight * kept + in_flight as f64 * (1.0 - kept);

        let (before, load) = (self.width, self.in_flight / self.width as f64);
        // The narrowest width whose load is not above the band. As a cast it is bounded, however great the load is.
        let narrowest = (self.in_flight / self.high).ceil() as usize;
        if load > self.high {
            self.width = narrowest;
        } else if load < self.low {
            // Not so narrow that it had to widen again: a band can be thinner than the step of one endpoint.
            let widest = (self.in_flight / self.low).floor() as usize;
            self.width = widest.max(narrowest).min(before);
        }
        self.width = self.width.clamp(self.min, self.max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);
    const STEP: Duration = Duration::from_millis(100);

    fn band() -> Band {
        Band::new(0.5, 2.0, WINDOW, 1, usize::MAX)
    }

    /// Feeds a constant load for so long; the widths on the way.
    fn feed(band: &mut Band, now: &mut Instant, in_flight: usize, time: Duration) -> Vec<usize> {
        let end = *now + time;
        let mut widths = vec![band.width()];
        while *now < end {
            *now += STEP;
            band.observe(*now, in_flight, in_flight);
            widths.push(band.width());
        }
        widths
    }

    fn start(band: &mut Band) -> Instant {
        let now = tokio::time::Instant::now().into_std();
        band.observe(now, 0, 0);
        now
    }

    #[test]
    fn widens_above_the_band_and_narrows_below_it_each_to_its_edge() {
        let mut band = band();
        let mut now = start(&mut band);
        let up = feed(&mut band, &mut now, 40, 20 * WINDOW);
        assert_eq!(up.last(), Some(&20), "40 in flight, two for each");
        assert!(up.is_sorted(), "{up:?}");
        assert!(up[1..5].iter().all(|w| *w < 4), "smoothed: {up:?}");

        let same = feed(&mut band, &mut now, 11, 20 * WINDOW);
        assert_eq!(same.last(), Some(&20), "0.55 for each is inside");
        let down = feed(&mut band, &mut now, 4, 20 * WINDOW);
        assert_eq!(down.last(), Some(&8), "0.5 for each");
        assert!(down.is_sorted_by(|a, b| a >= b), "{down:?}");
    }

    #[test]
    fn a_long_silence_ends_at_the_floor() {
        let mut band = Band::new(0.5, 2.0, WINDOW, 3, usize::MAX);
        let mut now = start(&mut band);
        feed(&mut band, &mut now, 1_000, 20 * WINDOW);
        assert_eq!(band.width(), 500);
        assert_eq!(band.observe(now + Duration::from_mins(5), 1_000, 0), Change::Narrower);
        assert_eq!(band.width(), 3);
    }

    #[test]
    fn time_that_stands_still_or_goes_back_changes_nothing() {
        let mut band = band();
        let now = start(&mut band);
        assert_eq!(band.observe(now, 1_000, 1_000), Change::None);
        assert_eq!(band.observe(now.checked_sub(STEP).unwrap(), 1_000, 1_000), Change::None);
        assert_eq!(band.in_flight(), 0.0);
    }

    #[test]
    fn a_load_that_swings_inside_the_band_moves_nothing() {
        let mut band = band();
        let mut now = start(&mut band);
        feed(&mut band, &mut now, 20, 20 * WINDOW);
        let before = band.width();
        assert_eq!(before, 10);
        for round in 0..500 {
            now += STEP;
            // From 0.6 to 1.9 for each, by turns short and long.
            let widths = if round / 20 % 2 == 0 { 6 } else { 19 };
            assert_eq!(band.observe(now, widths, widths), Change::None);
        }
    }

    proptest! {
        #[test]
        fn a_steady_load_ends_at_one_width_in_any_band(
            low in 0.01..10.0_f64, factor in 1.001..4.0_f64, loads in prop::collection::vec(0_usize..500, 1..4),
            min in 1_usize..5, more in 0_usize..400,
        ) {
            let mut band = Band::new(low, low * factor, WINDOW, min, min + more);
            let mut now = start(&mut band);
            for load in loads {
                feed(&mut band, &mut now, load, 30 * WINDOW);
                let width = band.width();
                prop_assert!((min..=min + more).contains(&width));
                let after = feed(&mut band, &mut now, load, 4 * WINDOW);
                prop_assert!(after.iter().all(|w| *w == width), "flaps: {:?}", after);
            }
        }
    }
}
