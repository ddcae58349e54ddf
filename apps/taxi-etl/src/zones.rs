//! Where trips begin and end.
//!
//! Entry type: [`City`], which draws a pickup zone, a dropoff zone for it, and knows the way
//! between them. The table below was derived from public TLC trip records of early 2023: how
//! often each of the 263 taxi zones is a pickup and a dropoff, and a place on a plane such that
//! straight lines come close to the miles that taxis drove between zones. It is no map.

/// A taxi zone: its weight as a pickup and as a dropoff, its place, and where it counts.
#[derive(Debug, Clone, Copy)]
struct Zone {
    pickup: u32,
    dropoff: u32,
    x_miles: f64,
    y_miles: f64,
    area: Area,
}

/// What fares and surcharges ask about a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// Manhattan south of about 96th Street, where the congestion surcharge applies.
    Core,
    /// The rest of Manhattan.
    Manhattan,
    /// Brooklyn.
    Brooklyn,
    /// Queens.
    Queens,
    /// The Bronx.
    Bronx,
    /// Staten Island.
    Staten,
    /// Newark airport, in New Jersey.
    Newark,
}

/// JFK airport's zone.
pub(crate) const JFK: usize = 132;
/// LaGuardia airport's zone.
pub(crate) const LAGUARDIA: usize = 138;
/// Newark airport's zone.
pub(crate) const NEWARK: usize = 1;
/// The number that stands for "unknown".
pub(crate) const UNKNOWN: usize = 264;
/// The number that stands for "outside of the city".
pub(crate) const OUTSIDE: usize = 265;

/// Draws the ends of trips.
#[derive(Debug)]
pub(crate) struct City {
    pickups: Alias,
    /// By pickup zone, less one.
    dropoffs: Vec<Alias>,
    miles: Vec<f32>,
}

impl City {
    /// Prepares the tables; about a millisecond.
    pub(crate) fn new() -> City {
        let mut miles = Vec::with_capacity(ZONES.len() * ZONES.len());
        let mut dropoffs = Vec::with_capacity(ZONES.len());
        for (a, from) in ZONES.iter().enumerate() {
            let mut weights = Vec::with_capacity(ZONES.len());
            for (b, to) in ZONES.iter().enumerate() {
                let line = (from.x_miles - to.x_miles).hypot(from.y_miles - to.y_miles);
                weights.push(f64::from(to.dropoff) * pull(a + 1, b + 1, line));
                miles.push(if a == b { SAME_ZONE_MILES } else { line.max(SHORTEST_MILES) } as f32);
            }
            dropoffs.push(Alias::new(&weights));
        }
        let weights: Vec<f64> = ZONES.iter().map(|zone| f64::from(zone.pickup)).collect();
        City { pickups: Alias::new(&weights), dropoffs, miles }
    }

    /// A pickup zone for 32 random bits.
    pub(crate) fn pickup(&self, bits: u32) -> usize {
        self.pickups.draw(bits) + 1
    }

    /// A dropoff zone for a trip from `pickup`.
    pub(crate) fn dropoff(&self, pickup: usize, bits: u32) -> usize {
        self.dropoffs[pickup - 1].draw(bits) + 1
    }

    /// The usual way between two zones.
    pub(crate) fn miles(&self, pickup: usize, dropoff: usize) -> f64 {
        f64::from(self.miles[(pickup - 1) * ZONES.len() + dropoff - 1])
    }
}

impl Area {
    /// Where `zone` lies; it must be a real zone.
    pub(crate) fn of(zone: usize) -> Area {
        ZONES[zone - 1].area
    }

    /// Whether it is in Manhattan.
    pub(crate) fn in_manhattan(self) -> bool {
        matches!(self, Area::Core | Area::Manhattan)
    }
}

/// How much a zone at this distance draws trips: near ones more, except that whoever lands at
/// an airport goes far.
fn pull(from: usize, to: usize, line_miles: f64) -> f64 {
    let airport = |zone| matches!(zone, JFK | LAGUARDIA | NEWARK);
    if from == to {
        return if airport(from) { 0.3 } else { 1.2 };
    }
    if airport(from) {
        return 1.0 / (1.0 + (line_miles / 15.0).powi(2));
    }
    let near = 1.0 / (1.0 + (line_miles / 2.2).powf(1.7));
    if airport(to) { near.max(0.25) } else { near }
}

/// Walker's alias method: draws from weights in constant time.
#[derive(Debug)]
struct Alias {
    /// Per entry, the part of 65,536 that is its own, and who has the rest.
    entries: Vec<(u32, u16)>,
}

impl Alias {
    fn new(weights: &[f64]) -> Alias {
        let total: f64 = weights.iter().sum();
        let scale = weights.len() as f64 / total;
        let mut share: Vec<f64> = weights.iter().map(|w| w * scale).collect();
        let mut entries: Vec<(u32, u16)> = (0..weights.len()).map(|i| (1 << 16, i as u16)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|i| share[*i] < 1.0);
        while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
            entries[poor] = ((share[poor] * 65_536.0) as u32, rich as u16);
            share[rich] -= 1.0 - share[poor];
            if share[rich] < 1.0 {
                small.push(rich);
            } else {
                large.push(rich);
            }
        }
        Alias { entries }
    }

    fn draw(&self, bits: u32) -> usize {
        let scaled = u64::from(bits) * self.entries.len() as u64;
        // The part below the entry's number is as random as the number itself.
        let index = (scaled >> 32) as usize;
        let (own, other) = self.entries[index];
        let within = ((scaled >> 16) & 0xffff) as u32;
        if within < own { index } else { usize::from(other) }
    }
}

/// The usual way within one zone.
const SAME_ZONE_MILES: f64 = 0.8;
/// Neighbouring zones are not closer than this.
const SHORTEST_MILES: f64 = 0.4;

const M: Area = Area::Manhattan;
const C: Area = Area::Core;
const K: Area = Area::Brooklyn;
const Q: Area = Area::Queens;
const X: Area = Area::Bronx;
const S: Area = Area::Staten;
const E: Area = Area::Newark;

const ZONES: [Zone; 263] = {
    let mut zones = [Zone { pickup: 0, dropoff: 0, x_miles: 0.0, y_miles: 0.0, area: Q }; 263];
    let mut i = 0;
    while i < zones.len() {
        let (pickup, dropoff, x, y, area) = TABLE[i];
        zones[i] = Zone { pickup, dropoff, x_miles: x as f64 / 10.0, y_miles: y as f64 / 10.0, area };
        i += 1;
    }
    zones
};

/// Zone 1 first: pickups, dropoffs, place in tenths of a mile, area.
#[rustfmt::skip]
const TABLE: [(u32, u32, i32, i32, Area); 263] = [
    (6, 635, 15, -174, E), (1, 3, 107, 14, Q), (1, 10, 51, 129, X), (156, 454, 19, -23, C),
    (3, 3, -87, -134, S), (3, 5, -101, -97, S), (95, 595, 40, 29, Q), (1, 1, 26, 41, Q),
    (2, 10, 127, 64, Q), (48, 168, 155, 4, Q), (1, 6, 51, -142, K), (68, 135, -1, -52, C),
    (554, 952, -7, -47, C), (2, 92, 26, -119, K), (1, 18, 122, 104, Q), (1, 20, 126, 91, Q),
    (14, 171, 54, -47, K), (3, 26, 29, 102, X), (1, 13, 140, -50, Q), (1, 10, 33, 95, X),
    (2, 14, 68, -130, K), (3, 19, 55, -131, K), (1, 4, -66, -178, S), (282, 406, -15, 38, C),
    (30, 207, 31, -61, K), (3, 25, 49, -106, K), (1, 2, 135, -131, Q), (26, 65, 128, 15, Q),
    (1, 17, 105, -129, K), (1, 1, 101, 20, Q), (1, 11, 40, 113, X), (4, 15, 42, 122, X),
    (50, 266, 25, -58, K), (1, 9, 35, -43, K), (7, 27, 83, -49, K), (11, 112, 70, -27, K),
    (22, 225, 64, -33, K), (3, 28, 135, 54, Q), (10, 52, 95, -64, K), (8, 102, 28, -71, K),
    (300, 780, -9, 46, M), (101, 535, -5, 56, M), (1625, 1364, -6, 27, C), (1, 2, -37, -144, S),
    (177, 347, 11, -39, C), (1, 2, -32, -60, X), (5, 16, 22, 78, X), (3546, 2871, -9, 1, C),
    (10, 185, 45, -53, K), (1043, 1325, -14, 0, C), (3, 19, 49, 147, X), (13, 69, 26, -64, K),
    (1, 15, 99, 73, Q), (2, 21, 19, -68, K), (3, 24, 84, -162, K), (12, 39, 88, 24, Q),
    (1, 5, 93, 36, Q), (1, 1, 9, 125, X), (1, 1, 38, 85, X), (4, 9, 32, 88, X),
    (18, 259, 61, -55, K), (1, 81, 59, -63, K), (7, 38, 107, -32, K), (1, 28, 118, -72, Q),
    (85, 184, 30, -55, K), (55, 170, 21, -56, K), (1, 25, 39, -121, K), (2589, 2447, -7, -12, C),
    (7, 41, 10, 71, X), (631, 54, 77, 46, Q), (4, 23, 74, -74, K), (4, 24, 74, -44, K),
    (1, 10, 111, 65, Q), (260, 851, 1, 46, M), (568, 1202, -5, 36, M), (9, 71, 103, -49, K),
    (5, 11, 94, -47, K), (2, 16, 45, 85, X), (3007, 2363, 13, -22, C), (38, 196, 57, -26, K),
    (1, 14, 51, 136, X), (24, 85, 76, 17, Q), (10, 62, 65, 13, Q), (1, 1, -61, -128, S),
    (6, 23, 68, -78, K), (3, 24, 191, -64, Q), (580, 772, 5, -49, C), (275, 406, 0, -52, C),
    (5, 139, 66, -88, K), (1465, 1169, -2, -16, C), (4, 36, 85, -88, K), (4, 64, 100, 53, Q),
    (97, 167, 100, 34, Q), (2, 19, 27, 91, X), (9, 180, 106, 11, Q), (1, 5, 100, -6, Q),
    (52, 160, 35, -57, K), (1, 14, 132, 57, Q), (1, 1, -42, -168, S), (1500, 1225, -3, -5, C),
    (1, 9, 133, -66, Q), (3, 33, 95, -10, Q), (1, 1, 9, 5, C), (1, 1, 33, -6, C),
    (1, 1, 15, -9, C), (6, 30, 33, -76, K), (2456, 1964, 9, -13, C), (2, 7, 113, -121, K),
    (1, 1, -40, -154, S), (1, 1, -47, -130, S), (1, 1, 51, -82, K), (50, 289, 46, -13, K),
    (1022, 1014, 5, -22, C), (1081, 836, 7, -26, C), (1, 1, 29, -171, S), (105, 361, -12, 63, M),
    (2, 13, 177, -90, Q), (1, 1, -38, -128, S), (5, 34, 4, 76, X), (1, 2, -7, 76, M),
    (3, 32, 123, 38, Q), (2, 8, 143, 42, Q), (2, 17, 82, -120, K), (5, 24, 128, -36, Q),
    (430, 347, 2, -30, C), (2, 19, 18, 87, X), (6, 107, -5, 100, M), (1, 8, 2, 101, M),
    (44, 257, 64, 23, Q), (30, 90, 139, 11, Q), (3, 17, 141, 34, Q), (7528, 1875, 188, 0, Q),
    (1, 44, 50, -99, K), (7, 52, 120, 13, Q), (2, 23, 120, 27, Q), (6, 20, 17, 97, X),
    (1269, 1399, 10, -8, C), (3623, 1244, 74, 52, Q), (3, 23, 169, -37, Q), (1464, 1865, 11, 17, C),
    (2734, 2845, 8, 16, C), (2897, 2499, -9, 12, C), (965, 1375, -14, 12, C), (838, 958, 10, -31, C),
    (54, 324, 34, 5, Q), (82, 118, 33, 16, Q), (2, 10, 17, 72, X), (1325, 1071, 15, -30, C),
    (2, 11, 91, -104, K), (1, 4, 90, -139, K), (908, 1018, -17, 33, C), (77, 181, -16, 54, M),
    (2, 3, 8, 105, M), (1, 2, 128, -114, K), (1, 33, 102, -93, K), (1, 1, -35, -145, S),
    (10, 41, 67, -4, Q), (668, 878, -6, -24, C), (6, 29, 10, 63, X), (5, 47, 84, -2, Q),
    (3346, 2751, 1, 4, C), (2991, 1993, 5, 4, C), (2429, 1937, -2, 8, C), (2350, 1855, 2, -6, C),
    (2, 38, 72, -102, K), (353, 606, -17, 44, M), (6, 22, 19, 71, X), (10, 76, 10, 56, X),
    (4, 16, 28, 75, X), (2837, 2523, 6, -4, C), (1, 17, 104, 67, Q), (1, 1, -59, -142, S),
    (3, 44, 80, 33, Q), (4, 19, 48, 106, X), (1, 13, 142, 77, Q), (1, 1, -39, -164, S),
    (5, 48, 64, -28, K), (1, 10, 76, -103, K), (40, 188, 39, 35, Q), (2, 21, 126, -28, Q),
    (35, 336, 41, -71, K), (6, 25, 22, 107, X), (1, 5, 28, 131, X), (1, 1, 91, 89, X),
    (1, 11, 36, 122, X), (3774, 2126, -2, -9, C), (1, 1, -44, -192, S), (10, 132, 66, -68, K),
    (15, 130, 47, -61, K), (1, 13, 52, -68, K), (3, 26, 120, 59, Q), (1, 10, 112, 45, Q),
    (25, 61, 35, 20, Q), (7, 8, -12, 20, C), (7, 36, 21, -78, K), (8, 46, 90, 14, Q),
    (10, 43, 127, -4, Q), (11, 79, 77, -19, Q), (1, 1, 34, 98, X), (1, 46, -8, 123, X),
    (2, 12, 167, -117, Q), (5, 75, 42, 10, M), (1, 23, 177, 55, Q), (1, 1, -33, -155, S),
    (4, 43, 161, 32, Q), (1, 4, 11, -181, S), (1, 2, 60, 36, Q), (2, 23, 56, 114, X),
    (199, 303, 7, -47, C), (4, 21, 97, -124, K), (654, 804, 6, -31, C), (3, 21, 22, 100, X),
    (8, 31, 8, 107, X), (1, 5, 15, -156, S), (27, 69, 148, 18, Q), (21, 110, 141, -14, Q),
    (1, 44, 47, -38, K), (6, 41, 159, -9, Q), (7, 58, 163, 42, Q), (3, 52, 7, 113, X),
    (1, 4, 12, -171, S), (3, 14, 120, -55, K), (27, 272, 49, 40, Q), (154, 468, 15, -15, C),
    (12, 134, 64, -43, K), (76, 259, 46, 12, Q), (1, 20, 31, -104, K), (5, 60, 28, -94, K),
    (2066, 2196, 9, 7, C), (2847, 2520, -4, 2, C), (1164, 1203, 3, -39, C), (231, 608, 18, -35, C),
    (1226, 1552, 9, 0, C), (2086, 1699, 4, -14, C), (3, 31, 30, 66, X), (2912, 3383, 3, 24, C),
    (3280, 2839, 4, 14, C), (2000, 2242, -15, 27, C), (2902, 2746, -14, 20, C), (1, 4, 34, 127, X),
    (3, 20, 21, 106, X), (1, 21, 31, 115, X), (19, 283, -4, 87, M), (89, 417, -14, 76, M),
    (1, 2, -184, -44, S), (1560, 1583, -12, -11, C), (9, 47, 3, 68, X), (2, 22, 30, 101, X),
    (1887, 1460, 0, -24, C), (5, 12, 19, 116, X), (1, 1, -41, -140, S), (1, 26, 103, 85, Q),
    (1, 2, 107, 45, Q), (6, 21, 48, 126, X), (76, 354, 45, -25, K), (74, 291, 43, -33, K),
    (3, 72, 42, -89, K), (6, 37, 117, -14, Q), (2, 24, 19, 145, X), (48, 132, 56, 17, Q),
    (661, 618, 0, -47, C), (1188, 1681, 8, 26, C), (2443, 2491, 4, 26, C),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_table_draws_by_weight() {
        let alias = Alias::new(&[1.0, 0.0, 7.0, 2.0]);
        let mut seen = [0_u32; 4];
        // Every 32-bit number in even steps.
        for step in 0..100_000_u32 {
            seen[alias.draw(step * 42_949)] += 1;
        }
        for (count, weight) in seen.iter().zip([1.0, 0.0, 7.0, 2.0]) {
            assert!((f64::from(*count) / 1e4 - weight).abs() < 0.02, "{seen:?}");
        }
    }

    #[test]
    fn zones_are_where_they_should_be() {
        let city = City::new();
        // Midtown to JFK is about 18 miles, to LaGuardia 9, across Midtown one.
        let near = |from, to, miles: f64, off: f64| {
            let found = city.miles(from, to);
            assert!((found - miles).abs() < off, "{from} to {to}: {found}");
        };
        near(161, JFK, 18.0, 1.5);
        near(161, LAGUARDIA, 9.0, 1.5);
        near(161, 230, 0.8, 0.6);
        near(161, NEWARK, 17.5, 1.5);
        assert!(Area::of(161) == Area::Core && Area::of(244) == Area::Manhattan);
        assert!(Area::of(NEWARK) == Area::Newark && Area::of(JFK) == Area::Queens);
    }
}
