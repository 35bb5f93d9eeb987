//! The matrix products that this processor computes fast. libtorch does not choose them by itself.

use std::sync::OnceLock;

use tch::{Device, Kind};

/// Properties of a processor that the networks depend on. They follow from its model and not from a measurement, so
/// that machines of one kind always compute the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processor {
    /// Whether MKL, through which libtorch multiplies plain f32, runs at full rate. It does so on Intel's processors.
    /// On others it takes twice as long as oneDNN.
    pub(super) mkl_is_fast: bool,
    /// Whether bf16 products run faster than f32 products. On Intel's cores they do so only with AMX: without it, the
    /// bf16 instruction has half the rate of f32 (79 and 140 GFLOP/s, measured on one core). AMD's cores have had a
    /// full-rate bf16 instruction since Zen 4.
    pub(super) bf16_is_fast: bool,
}

impl Processor {
    /// The processor of this machine.
    pub(super) fn of_this_machine() -> Self {
        static PROCESSOR: OnceLock<Processor> = OnceLock::new();
        // Only Linux has this file. Other systems get the properties of an unknown maker.
        *PROCESSOR.get_or_init(|| Self::of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))
    }

    /// The kind of matrix products with weights of kind `weights` on `device`. It is `weights`, with one exception: f32
    /// for bf16 weights if `device` is this processor and it multiplies f32 faster.
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
            // Nothing has been measured on processors other than x86, so products have the type of the weights.
            None => Self { mkl_is_fast: false, bf16_is_fast: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart_by_maker_and_flags() {
        let parsed = |vendor: &str, flags: &str| {
            Processor::of(&format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"))
        };
        let processor = |mkl_is_fast, bf16_is_fast| Processor { mkl_is_fast, bf16_is_fast };
        assert_eq!(parsed("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile"), processor(true, true));
        assert_eq!(parsed("GenuineIntel", "avx512_bf16"), processor(true, false));
        assert_eq!(parsed("AuthenticAMD", "avx512_bf16"), processor(false, true));
        assert_eq!(parsed("AuthenticAMD", "avx2"), processor(false, false));
        assert_eq!(Processor::of("CPU implementer\t: 0x41\nFeatures\t: bf16\n"), processor(false, true));
    }

    #[test]
    fn only_bf16_on_a_cpu_that_is_slow_at_it_is_multiplied_in_another_kind() {
        let intel = |bf16_is_fast| Processor { mkl_is_fast: true, bf16_is_fast };
        assert_eq!(intel(false).products_of(Kind::BFloat16, Device::Cpu), Kind::Float);
        assert_eq!(intel(true).products_of(Kind::BFloat16, Device::Cpu), Kind::BFloat16);
        assert_eq!(intel(false).products_of(Kind::BFloat16, Device::Cuda(0)), Kind::BFloat16);
        assert_eq!(intel(false).products_of(Kind::Half, Device::Cuda(0)), Kind::Half);
        assert_eq!(intel(false).products_of(Kind::Float, Device::Cpu), Kind::Float);
    }
}
