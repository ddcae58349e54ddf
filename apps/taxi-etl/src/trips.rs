//! One chunk of made-up yellow trips.
//!
//! Entry type: [`Trips`], which makes any chunk of a month without having made the others: a
//! chunk depends only on the seed, the month and its number. Fares follow the TLC's rules of
//! 2023 (meter with distance and slow time, flat fare to JFK, surcharges for Newark, rush hour,
//! night, congestion and airports), and about as many rows are dirty as in real files: refunds
//! with negative amounts, trips without distance, meters left running, missing values, dates of
//! other years. It writes nothing.
//!
//! `fares` knows the rules, `chance` what is odd and how often, `columns` how a chunk is kept; how a
//! trip comes about is here.

mod chance;
mod columns;
mod fares;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::chance::{Lanes, Oddity, Payment, VENDOR_1, normal_quantile, passengers};
use self::columns::Columns;
use self::fares::*;
use crate::calendar::{HOUR_US, Hours, Month};
use crate::zones::{Area, City, JFK, LAGUARDIA, NEWARK, OUTSIDE, UNKNOWN};

/// Rows of a chunk; only the last of a month has fewer.
pub(crate) const CHUNK_ROWS: u64 = 1 << 16;

/// Makes the trips of a month.
#[derive(Debug)]
pub(crate) struct Trips {
    seed: u64,
    month: Month,
    rows: u64,
    hours: Hours,
    city: Arc<City>,
    tables: Arc<Tables>,
    schema: SchemaRef,
}

/// What is computed once for all months.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Quantiles of the ratio of a trip to the usual way, and of its speed to the usual speed.
    detour: Vec<f32>,
    pace: Vec<f32>,
}

impl Tables {
    pub(crate) fn new() -> Tables {
        let quantiles = |sigma: f64| {
            let at = |i: usize| (normal_quantile((i as f64 + 0.5) / 4096.0) * sigma).exp() as f32;
            (0..4096).map(at).collect()
        };
        Tables { detour: quantiles(0.24), pace: quantiles(0.22) }
    }
}

impl Trips {
    pub(crate) fn new(
        seed: u64,
        month: Month,
        rows: u64,
        city: Arc<City>,
        tables: Arc<Tables>,
        schema: SchemaRef,
    ) -> Trips {
        Trips { seed, month, rows, hours: Hours::new(month, rows), city, tables, schema }
    }

    /// The rows of chunk `chunk`.
    pub(crate) fn chunk(&self, chunk: u64) -> Result<RecordBatch, ArrowError> {
        let first = chunk * CHUNK_ROWS;
        let end = self.rows.min(first + CHUNK_ROWS);
        let key = format!("{}/{chunk}", self.month);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(xxh3_64_with_seed(key.as_bytes(), self.seed));
        let mut columns = Columns::with_capacity((end - first) as usize);
        let mut hour = self.hours.of(first.min(self.rows.saturating_sub(1)));
        for row in first..end {
            while row >= self.hours.end(hour) {
                hour += 1;
            }
            columns.push(&self.trip(hour, &mut random));
        }
        columns.finish(&self.schema)
    }

    fn trip(&self, hour: usize, random: &mut Xoshiro256PlusPlus) -> Trip {
        let (a, b) = (random.next_u64(), random.next_u64());
        let (c, d) = (Lanes(random.next_u64()), Lanes(random.next_u64()));
        let pickup = self.city.pickup((a >> 32) as u32);
        let dropoff = self.city.dropoff(pickup, (b >> 32) as u32);
        let vendor = if d.get(0) < VENDOR_1 { 1 } else { 2 };
        let oddity = Oddity::draw(c.get(0), vendor);

        // The way and the time it takes.
        let mut miles = self.city.miles(pickup, dropoff) * f64::from(self.tables.detour[(b & 0xfff) as usize]);
        if oddity == Oddity::OutOfTown {
            miles += 8.0 + f64::from(d.get(1)) / 8192.0;
        }
        let pace = f64::from(self.tables.pace[(b >> 12 & 0xfff) as usize]);
        let mph = usual_mph(miles) * HOUR_SPEED[hour % 24] * pace;
        let mut seconds = (miles / mph * 3600.0) as i64 + 20;
        let mut pickup_us =
            self.month.start_us() + hour as i64 * HOUR_US + (((a & 0xffff) as i64 * 3600) >> 16) * 1_000_000;
        let minutes = seconds as f64 / 60.0;
        // One vendor's meters report tenths of a mile.
        let mut hundredths =
            if vendor == 1 { (miles * 10.0).round() as i64 * 10 } else { (miles * 100.0).round() as i64 };

        // The fare.
        let (from, to) = (Area::of(pickup), Area::of(dropoff));
        let rush = self.month.is_rush(hour);
        let meter = METER_START + METER_UNIT * (5.0 * miles + slow_units(mph) * minutes) as i64;
        let jfk = pickup == JFK && to.in_manhattan() || dropoff == JFK && from.in_manhattan();
        let mut rate = Rate::Standard;
        let mut fare = meter;
        let mut extra = match hour % 24 {
            16..20 if rush => RUSH_EXTRA,
            20..24 | 0..6 => NIGHT_EXTRA,
            _ => 0,
        };
        match oddity {
            Oddity::Negotiated => {
                (rate, fare) = (Rate::Negotiated, 2000 + i64::from(d.get(1) % 27) * 500);
                (extra, hundredths) = (0, if d.get(2) % 2 == 0 { 0 } else { hundredths });
            }
            Oddity::OutOfTown => {
                // Beyond the city limits the meter counts double.
                rate = Rate::Nassau;
                fare = meter + (meter - METER_START) / 2 / METER_UNIT * METER_UNIT;
            }
            _ if dropoff == NEWARK => (rate, fare, extra) = (Rate::Newark, meter + NEWARK_SURCHARGE, 0),
            _ if jfk && d.get(1) < 62_000 => {
                (rate, fare, extra) = (Rate::Jfk, JFK_FLAT, if rush { JFK_RUSH_EXTRA } else { 0 });
            }
            _ if d.get(1) > 65_300 => (rate, extra) = (Rate::Unknown, 0),
            _ => {}
        }
        let airport = if matches!(pickup, JFK | LAGUARDIA) { self.airport_fee() } else { 0 };
        if pickup == LAGUARDIA {
            extra += LAGUARDIA_EXTRA;
        }
        let congestion = from == Area::Core || to == Area::Core;
        let congestion = if congestion && rate != Rate::Newark { CONGESTION_SURCHARGE } else { 0 };
        let tolls = tolls(rate, pickup, dropoff, from != to, d.get(3));

        let mut trip = Trip {
            vendor,
            pickup_us,
            dropoff_us: 0,
            passengers: passengers(vendor, c.get(1)),
            hundredths_mile: 0,
            rate,
            stored: d.get(0) % 1000 < if vendor == 1 { 20 } else { 1 },
            pickup,
            dropoff,
            payment: Payment::draw(c.get(2)),
            fare,
            extra,
            mta_tax: if rate == Rate::Newark { 0 } else { MTA_TAX },
            tip: 0,
            tolls,
            improvement: IMPROVEMENT_SURCHARGE,
            congestion,
            airport,
            sign: 1,
            flex: false,
        };

        // What is wrong with it.
        match oddity {
            Oddity::None | Oddity::Negotiated => {}
            Oddity::OutOfTown => trip.dropoff = OUTSIDE,
            Oddity::UnknownZones => {
                trip.pickup = UNKNOWN;
                if d.get(1) % 2 == 0 {
                    trip.dropoff = UNKNOWN;
                }
            }
            Oddity::Flex => {
                trip.flex = true;
                trip.payment = Payment::Flex;
                (trip.extra, trip.tolls, trip.airport) = (0, 0, 0);
                // Agreed in an app: to the cent.
                trip.fare += i64::from(d.get(1) % 70);
            }
            Oddity::Refund => {
                trip.sign = -1;
                trip.payment = if d.get(1) % 3 == 0 { Payment::NoCharge } else { Payment::Dispute };
            }
            Oddity::NoDistance => {
                hundredths = 0;
                if rate == Rate::Standard {
                    seconds = i64::from(d.get(1) % 90);
                    trip.fare = METER_START;
                }
            }
            Oddity::MeterLeftOn => seconds = 86_400 - 60 * i64::from(d.get(1) % 60) - seconds.min(3_000),
            Oddity::NoFare => trip.fare = 0,
            Oddity::OtherDate => {
                let years_back = [15, 1, 1, 0][usize::from(d.get(1) as u8 % 4)];
                let days = if years_back == 0 { -33 } else { years_back * 365 };
                pickup_us -= days * 24 * HOUR_US;
            }
            Oddity::Backwards => seconds = -seconds,
            Oddity::Monstrous => hundredths = 100_000 + i64::from(d.get(1)) * 100,
            Oddity::Fortune => trip.fare = 50_000 + i64::from(d.get(1)),
        }
        trip.pickup_us = pickup_us;
        trip.dropoff_us = pickup_us + seconds * 1_000_000;
        trip.hundredths_mile = hundredths;
        if trip.payment == Payment::Card || trip.flex {
            trip.tip = tip(trip.total(), c.get(3));
        }
        trip
    }

    /// The TLC raised it in the spring of 2023.
    fn airport_fee(&self) -> i64 {
        if self.month >= (Month { year: 2023, month: 4 }) { 175 } else { 125 }
    }
}

/// A trip; amounts in cents.
#[derive(Debug)]
struct Trip {
    vendor: i64,
    pickup_us: i64,
    dropoff_us: i64,
    passengers: i64,
    hundredths_mile: i64,
    rate: Rate,
    stored: bool,
    pickup: usize,
    dropoff: usize,
    payment: Payment,
    fare: i64,
    extra: i64,
    mta_tax: i64,
    tip: i64,
    tolls: i64,
    improvement: i64,
    congestion: i64,
    airport: i64,
    /// Minus one for a refund.
    sign: i64,
    /// A flex fare: what the meter would tell is missing.
    flex: bool,
}

impl Trip {
    fn total(&self) -> i64 {
        self.fare
            + self.extra
            + self.mta_tax
            + self.tip
            + self.tolls
            + self.improvement
            + self.congestion
            + self.airport
    }
}
