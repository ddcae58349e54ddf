//! What is left to chance: who pays how, who rides along, and what is odd about a trip. The
//! shares are those of real files. Everything is drawn from parts of a random word, so that a trip
//! takes a fixed number of them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payment {
    Flex = 0,
    Card = 1,
    Cash = 2,
    NoCharge = 3,
    Dispute = 4,
}

impl Payment {
    pub(super) fn draw(lane: u32) -> Payment {
        match lane {
            0..51_000 => Payment::Card,
            51_000..64_700 => Payment::Cash,
            64_700..65_200 => Payment::NoCharge,
            _ => Payment::Dispute,
        }
    }
}

/// What makes a trip odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oddity {
    None,
    Negotiated,
    OutOfTown,
    UnknownZones,
    Flex,
    Refund,
    NoDistance,
    MeterLeftOn,
    NoFare,
    OtherDate,
    Backwards,
    Monstrous,
    Fortune,
}

impl Oddity {
    /// By parts of 65,536.
    pub(super) fn draw(lane: u32, vendor: i64) -> Oddity {
        match lane {
            6_500.. => Oddity::None,
            0..1_640 => Oddity::Flex,
            1_640..2_820 => Oddity::NoDistance,
            2_820..3_600 => Oddity::UnknownZones,
            // Only one vendor reports refunds and midnight resets.
            3_600..4_400 if vendor == 2 => Oddity::Refund,
            4_400..4_570 if vendor == 2 => Oddity::MeterLeftOn,
            4_600..5_060 => Oddity::Negotiated,
            5_060..5_460 => Oddity::OutOfTown,
            5_460..5_490 => Oddity::NoFare,
            5_490..5_510 => Oddity::OtherDate,
            5_510..5_512 => Oddity::Backwards,
            5_512..5_514 => Oddity::Monstrous,
            5_514 => Oddity::Fortune,
            _ => Oddity::None,
        }
    }
}

/// Four independent numbers below 65,536 out of one random word.
#[derive(Clone, Copy)]
pub(super) struct Lanes(pub(super) u64);

impl Lanes {
    pub(super) fn get(self, lane: u32) -> u32 {
        (self.0 >> (16 * lane) & 0xffff) as u32
    }
}

pub(super) fn passengers(vendor: i64, lane: u32) -> i64 {
    let shares: [u32; 7] = if vendor == 1 {
        [4_500, 44_700, 58_700, 62_500, 65_400, 65_500, 65_536]
    } else {
        [10, 44_100, 57_000, 60_800, 63_300, 64_700, 65_536]
    };
    shares.iter().position(|below| lane < *below).unwrap_or(1) as i64
}

/// The quantile of the normal distribution (Acklam's approximation, good to nine digits).
pub(super) fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] =
        [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let polynomial = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    if p < 0.02425 {
        let q = (-2.0 * p.ln()).sqrt();
        return polynomial(&C, q) / (polynomial(&D, q) * q + 1.0);
    }
    if p > 1.0 - 0.02425 {
        return -normal_quantile(1.0 - p);
    }
    let q = p - 0.5;
    let r = q * q;
    polynomial(&A, r) * q / (polynomial(&B, r) * r + 1.0)
}

/// The share of vendor 1, of 65,536.
pub(super) const VENDOR_1: u32 = 17_300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959964), (0.01, -2.326348), (0.999, 3.090232)] {
            assert!((normal_quantile(p) - z).abs() < 1e-5, "{p}");
        }
    }

    #[test]
    fn lanes_are_parts_of_the_word() {
        let lanes = Lanes(0x0004_0003_0002_0001);
        assert_eq!([0, 1, 2, 3].map(|i| lanes.get(i)), [1, 2, 3, 4]);
    }
}
