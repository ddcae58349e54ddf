//! What a trip costs by the TLC's rules of 2023, in cents, and how fast the traffic is, which the
//! meter counts too.

use crate::zones::{JFK, LAGUARDIA};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    Standard = 1,
    Jfk = 2,
    Newark = 3,
    Nassau = 4,
    Negotiated = 5,
    Unknown = 99,
}

pub(super) fn tolls(rate: Rate, pickup: usize, dropoff: usize, crosses: bool, lane: u32) -> i64 {
    let airport = |zone| pickup == zone || dropoff == zone;
    let (share, toll) = match rate {
        Rate::Jfk => (49_800, BRIDGE_TOLL),
        Rate::Newark => (54_000, 1_375),
        Rate::Nassau => (29_000, BRIDGE_TOLL),
        _ if airport(LAGUARDIA) => (40_600, BRIDGE_TOLL),
        _ if airport(JFK) => (20_000, BRIDGE_TOLL),
        _ if crosses => (6_000, BRIDGE_TOLL),
        _ => (60, BRIDGE_TOLL),
    };
    if lane < share { toll } else { 0 }
}

/// Most take what the screen offers; the others round or leave nothing.
pub(super) fn tip(total: i64, lane: u32) -> i64 {
    match lane {
        0..4_000 => 0,
        4_000..38_000 => total / 5,
        38_000..43_500 => total / 4,
        43_500..46_300 => total * 3 / 10,
        46_300..49_000 => total * 15 / 100,
        49_000..58_000 => (i64::from(lane) % 10 + 1) * 100,
        _ => total * (5 + i64::from(lane) % 18) / 100,
    }
}

/// Miles per hour that trips of this length make over a day.
pub(super) fn usual_mph(miles: f64) -> f64 {
    match miles {
        m if m < 2.0 => 9.0 + m * 0.9,
        m if m < 4.0 => 10.8 + (m - 2.0) * 1.2,
        m if m < 12.0 => 13.2 + (m - 4.0) * 1.5,
        m if m < 20.0 => 25.2 + (m - 12.0) * 0.9,
        _ => 32.4,
    }
}

/// Units of the meter per minute that are due to slow traffic, by average speed: what real
/// fares of 2023 hold beyond their distance.
pub(super) fn slow_units(mph: f64) -> f64 {
    let at = (mph / 2.0).clamp(1.0, 17.0);
    let index = at as usize;
    let part = at - index as f64;
    SLOW_UNITS[index] * (1.0 - part) + SLOW_UNITS[index + 1] * part
}

// The TLC's rules of 2023, in cents.
pub(super) const METER_START: i64 = 300;
pub(super) const METER_UNIT: i64 = 70;
pub(super) const JFK_FLAT: i64 = 7_000;
pub(super) const JFK_RUSH_EXTRA: i64 = 500;
pub(super) const NEWARK_SURCHARGE: i64 = 2_000;
pub(super) const LAGUARDIA_EXTRA: i64 = 500;
pub(super) const RUSH_EXTRA: i64 = 250;
pub(super) const NIGHT_EXTRA: i64 = 100;
pub(super) const MTA_TAX: i64 = 50;
pub(super) const IMPROVEMENT_SURCHARGE: i64 = 100;
pub(super) const CONGESTION_SURCHARGE: i64 = 250;
pub(super) const BRIDGE_TOLL: i64 = 655;

/// Speed by hour of day, relative to the day's.
pub(super) const HOUR_SPEED: [f64; 24] = [
    1.08, 1.08, 1.13, 1.18, 1.27, 1.45, 1.36, 1.06, 0.97, 1.02, 1.05, 1.01, 0.98, 0.96, 0.90, 0.86, 0.85, 0.86, 0.90,
    0.96, 1.01, 1.06, 1.13, 1.16,
];

/// By average speed in steps of two miles per hour.
pub(super) const SLOW_UNITS: [f64; 19] = [
    0.80, 0.74, 0.64, 0.52, 0.42, 0.355, 0.30, 0.25, 0.205, 0.175, 0.155, 0.145, 0.14, 0.135, 0.125, 0.11, 0.095,
    0.085, 0.08,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_traffic_costs_more_the_slower_it_is() {
        let speeds = [0.0, 1.0, 3.0, 7.0, 12.0, 20.0, 40.0, 90.0];
        let units: Vec<f64> = speeds.iter().map(|mph| slow_units(*mph)).collect();
        assert!(units.is_sorted_by(|a, b| a >= b), "{units:?}");
        assert!((slow_units(10.0) - 0.355).abs() < 1e-12);
    }
}
