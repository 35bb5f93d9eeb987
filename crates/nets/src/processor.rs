//! Which matrix products this processor is fast at, which libtorch does not choose by itself.

use std::sync::OnceLock;

use tch::{Device, Kind};

/// What the networks ask of a processor. Decided by what it is and not by timing it, so that machines of one kind always
/// compute the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processor {
    /// MKL, through which libtorch multiplies plain f32, runs at full rate: on Intel's. Elsewhere it takes twice as long
    /// as oneDNN.
    pub(super) mkl_is_fast: bool,
    /// bf16 products run at more than the rate of f32. Intel's cores do so with AMX only: without, their bf16 instruction
    /// has half the rate of f32 (79 and 140 GFLOP/s measured on one core). AMD's have a full-rate one since Zen 4.
    pub(super) bf16_is_fast: bool,
}

impl Processor {
    /// The one that this program runs on.
    pub(super) fn of_this_machine() -> Self {
        static PROCESSOR: OnceLock<Processor> = OnceLock::new();
        // Linux only; elsewhere what is unknown is taken for what is common there.
        *PROCESSOR.get_or_init(|| Self::of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))
    }

    /// The kind in which to multiply with weights of `weights` on `device`: theirs, but f32 for bf16 where this is the
    /// device and multiplies f32 faster.
    pub(super) fn products_of(self, weights: Kind, device: Device) -> Kind {
        match (weights, device) {
            (Kind::BFloat16, Device::Cpu) if !self.bf16_is_fast => Kind::Float,
            _ => weights,
        }
    }

    /// The first processor of a `/proc/cpuinfo`.
    fn of(cpuinfo: &str) -> Self {
        let field = |name: &str| {
            let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
        };
        let has = |flag: &str| field("flags").is_some_and(|flags| flags.split_whitespace().any(|other| other == flag));
        match field("vendor_id") {
            Some("GenuineIntel") => Self { mkl_is_fast: true, bf16_is_fast: has("amx_bf16") },
            Some(_) => Self { mkl_is_fast: false, bf16_is_fast: has("avx512_bf16") || has("amx_bf16") },
            // No x86: nothing measured, so products are in the type that was asked for.
            None => Self { mkl_is_fast: false, bf16_is_fast: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart_by_maker_and_flags() {
        let of = |vendor: &str, flags: &str| {
            Processor::of(&format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"))
        };
        let processor = |mkl_is_fast, bf16_is_fast| Processor { mkl_is_fast, bf16_is_fast };
        assert_eq!(of("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile"), processor(true, true));
        assert_eq!(of("GenuineIntel", "avx512_bf16"), processor(true, false));
        assert_eq!(of("AuthenticAMD", "avx512_bf16"), processor(false, true));
        assert_eq!(of("AuthenticAMD", "avx2"), processor(false, false));
        assert_eq!(Processor::of("CPU implementer\t: 0x41\nFeatures\t: bf16\n"), processor(false, true));
    }

    #[test]
    fn only_bf16_on_a_cpu_that_is_slow_at_it_is_multiplied_in_another_kind() {
        let of = |bf16_is_fast| Processor { mkl_is_fast: true, bf16_is_fast };
        assert_eq!(of(false).products_of(Kind::BFloat16, Device::Cpu), Kind::Float);
        assert_eq!(of(true).products_of(Kind::BFloat16, Device::Cpu), Kind::BFloat16);
        assert_eq!(of(false).products_of(Kind::BFloat16, Device::Cuda(0)), Kind::BFloat16);
        assert_eq!(of(false).products_of(Kind::Half, Device::Cuda(0)), Kind::Half);
        assert_eq!(of(false).products_of(Kind::Float, Device::Cpu), Kind::Float);
    }
}
