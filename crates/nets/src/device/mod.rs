//! Devices: number types, memory, copies to and from them, and steps of an optimiser over many tensors.
//!
//! Everything works on a CPU, too, where copies are views and nothing waits.

use tch::{Device, Kind, TchError, Tensor};

mod shim;

mod pixels;

pub use pixels::Normalisation;

/// A CUDA device. An unknown value is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its model.
    pub name: Option<String>,
    /// Compute capability, major and minor, e.g. `(9, 0)`.
    pub capability: Option<(u32, u32)>,
    /// Highest version of CUDA that the driver serves, major and minor.
    pub driver_cuda: Option<(u32, u32)>,
    /// Free and total memory, bytes.
    pub memory: Option<(u64, u64)>,
}

impl Gpu {
    /// The device of this index.
    pub fn of(index: usize) -> Self {
        let driver = shim::driver(index);
        Self {
            capability: driver.as_ref().map(|driver| driver.capability),
            driver_cuda: driver.as_ref().map(|driver| (driver.cuda / 1000, driver.cuda % 1000 / 10)),
            name: driver.map(|driver| driver.name),
            memory: shim::memory(index).ok(),
        }
    }

    /// Whether it has fast products of half precision (Volta and later).
    pub fn has_fast_f16(&self) -> Option<bool> {
        Some(self.capability? >= (7, 0))
    }

    /// Whether it has products of bf16 and TF32 (Ampere and later).
    pub fn has_bf16_and_tf32(&self) -> Option<bool> {
        Some(self.capability? >= (8, 0))
    }
}

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Free for tensors, what libtorch has reserved and does not use among it.
    pub free: u64,
    /// Allocated by tensors.
    pub allocated: u64,
    /// Greatest number allocated at once since the last call of [`memory`].
    pub peak: u64,
}

/// The memory of `device`; `None` on a CPU, or if the device does not say.
pub fn memory(device: Device) -> Option<Memory> {
    let Device::Cuda(index) = device else { return None };
    let (free, _) = shim::memory(index).ok()?;
    let [allocated, peak, reserved] = shim::allocated(index).ok()?;
    Some(Memory { free: free + reserved.saturating_sub(allocated), allocated, peak })
}

/// Forbids TF32 in products and convolutions of f32 on all devices. libtorch allows it in convolutions by default: the
/// inputs are then rounded to 10 bits, which costs three decimal digits.
///
/// # Errors
/// libtorch refuses.
pub fn forbid_tf32() -> Result<(), TchError> {
    shim::allow_tf32(false)
}

/// Whether products or convolutions of `kind` round their inputs on `device` to fewer bits than f32 has. It finds TF32
/// even if something outside libtorch switched it on, such as the environment variable `NVIDIA_TF32_OVERRIDE`.
///
/// # Errors
/// The device fails.
pub fn rounds_inputs(device: Device, kind: Kind) -> Result<bool, TchError> {
    let _no_grad = tch::no_grad_guard();
    // 1 + 2⁻¹² needs 13 bits: TF32 and bf16 round it to 1. All sums are exact in f32.
    let (one, n, channels) = (1.0 + 2_f64.powi(-12), 64_i64, 32_i64);
    let filled = |shape: &[i64], value: f64| Tensor::f_full(shape, value, (Kind::Float, device))?.f_to_kind(kind);
    let is_rounded = |found: &Tensor, terms: i64| -> Result<bool, TchError> {
        let expected = terms as f64 * one;
        let error = (found.f_to_kind(Kind::Double)? - expected).abs().f_max()?.f_double_value(&[])?;
        Ok(error > terms as f64 * (one - 1.0) / 2.0)
    };
    let product = filled(&[n, n], one)?.f_matmul(&filled(&[n, n], 1.0)?)?;
    let (xs, weight) = (filled(&[2, channels, 16, 16], one)?, filled(&[channels, channels, 3, 3], 1.0)?);
    let convolved = xs.f_conv2d(&weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)?;
    Ok(is_rounded(&product, n)? || is_rounded(&convolved, 9 * channels)?)
}

/// What `compute` returns if the calling thread's products and convolutions on `device` are computed in `kind`, whatever the
/// types of their inputs are. In bf16 or f16, libtorch rounds the inputs and the outputs of each ("autocast"). f32 stands for
/// the types of the inputs, as without this function.
///
/// # Panics
/// If libtorch knows no such products on the device, as every method of tch.
pub fn with_products_of<T>(kind: Kind, device: Device, compute: impl FnOnce() -> T) -> T {
    let _products = shim::Products::of(kind, device.is_cuda()).expect("libtorch has the type");
    compute()
}

/// A matrix product, convolution or attention that was computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The operation with its sizes, e.g. `convolution 3 x 3, 64 -> 64, 25 x 56 x 56`.
    pub name: String,
    /// Floating-point operations; a multiplication and its sum are two.
    pub flop: f64,
    /// Seconds that the calling thread spent in it. A GPU works on after them.
    pub seconds: f64,
}

/// What `compute` returns, and the products that the calling thread computes in it, in their order. Watching them takes some
/// microseconds for each operation.
///
/// # Errors
/// libtorch refuses.
pub fn watched_products<T>(compute: impl FnOnce() -> T) -> Result<(T, Vec<Product>), TchError> {
    shim::products_of(compute)
}

/// A tensor of `kind` on `device` whose bytes `fill` writes, all of them. For a GPU it writes into pinned memory, and the
/// copy does not wait, so that the GPU goes on with earlier work.
///
/// # Errors
/// Memory is short.
pub fn placed(shape: &[i64], kind: Kind, device: Device, fill: impl FnOnce(&mut [u8])) -> Result<Tensor, TchError> {
    let n_bytes = shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
    let (mut bytes, ()) = host_bytes(n_bytes, device, fill)?;
    if device != Device::Cpu {
        bytes = bytes.f_to_device_(device, Kind::Uint8, true, false)?;
    }
    bytes.f_view_dtype(kind)?.f_view(shape)
}

/// A tensor of the CPU on `device`. A copy to a GPU comes from pinned memory and does not wait.
///
/// # Errors
/// Memory is short.
pub fn sent(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    if device == Device::Cpu || tensor.device() != Device::Cpu {
        return tensor.f_to_device(device);
    }
    copied(tensor, device)?
        .f_to_device_(device, Kind::Uint8, true, false)?
        .f_view_dtype(tensor.kind())?
        .f_view(tensor.size().as_slice())
}

/// The bytes of a tensor of the CPU, in memory that copies to `device` need not wait for.
fn copied(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    let bytes = tensor.f_contiguous()?.f_view([-1])?.f_view_dtype(Kind::Uint8)?;
    let (copy, copied) = host_bytes(bytes.numel(), device, |out| bytes.f_copy_data(out, out.len()))?;
    copied.map(|()| copy)
}

/// A tensor of `n` bytes on the CPU that `fill` writes, and its result. The memory is pinned if the bytes are to go to a
/// GPU, `device`. `fill` must write all bytes.
///
/// # Errors
/// Memory is short.
pub fn host_bytes<R>(n: usize, device: Device, fill: impl FnOnce(&mut [u8]) -> R) -> Result<(Tensor, R), TchError> {
    shim::bytes(n, device.is_cuda(), fill)
}

/// A matrix of floats on its way from a device.
#[derive(Debug)]
pub struct Fetch {
    values: Tensor,
    arrived: Option<shim::Event>,
}

impl Fetch {
    /// Starts the copy of `values`, any shape and kind. Nothing waits.
    ///
    /// # Errors
    /// Memory is short.
    pub fn of(values: &Tensor) -> Result<Self, TchError> {
        let Device::Cuda(index) = values.device() else {
            return Ok(Self { values: values.f_to_kind(Kind::Float)?.f_contiguous()?, arrived: None });
        };
        let values = values.f_to_kind(Kind::Float)?.f_contiguous()?;
        // libtorch takes pinned memory for a copy to the host that does not wait.
        let values = values.f_to_device_(Device::Cpu, Kind::Float, true, false)?;
        Ok(Self { values, arrived: Some(shim::Event::after_all_work(index)?) })
    }

    /// The values, row-major.
    ///
    /// # Errors
    /// The device failed in the work before the copy.
    pub fn wait(self) -> Result<Vec<f32>, TchError> {
        if let Some(event) = &self.arrived {
            event.wait()?;
        }
        let mut values = vec![0.0; self.values.numel()];
        self.values.f_copy_data(&mut values, self.values.numel())?;
        Ok(values)
    }
}

/// Constants of Adam.
#[derive(Clone, Copy, Debug)]
pub struct AdamConstants {
    /// Whether the decay shrinks the parameters (AdamW) instead of joining the gradient.
    pub is_decoupled: bool,
    /// Decays of the first and second moments.
    pub betas: [f64; 2],
    /// Weight decay.
    pub decay: f64,
    /// Constant added to the root of the second moment.
    pub epsilon: f64,
}

/// One step of Adam on whole tensors in a few launches, however many parameters there are. All tensors are f32 and on
/// one device; `step` is a float tensor with the number of this step, from 1. If `skipped` holds 1 instead of 0, the step
/// changes nothing, which the host need not know.
///
/// # Errors
/// libtorch refuses the tensors.
///
/// # Panics
/// If the lists differ in length, which is the caller's bug.
pub fn adam(
    constants: &AdamConstants,
    rate: f64,
    step: &Tensor,
    skipped: Option<&Tensor>,
    parameters: &[Tensor],
    gradients: &[Tensor],
    [first, second]: [&[Tensor]; 2],
) -> Result<(), TchError> {
    shim::adam(constants, rate, step, skipped, [parameters, gradients, first, second])
}

/// Moves each of `averages` by `weight` towards its value, in a few launches.
///
/// # Errors
/// libtorch refuses the tensors.
///
/// # Panics
/// If the lists differ in length, which is the caller's bug.
pub fn lerp(averages: &[Tensor], values: &[Tensor], weight: f64) -> Result<(), TchError> {
    shim::lerp(averages, values, weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_computed_in_the_type_that_is_asked_for_and_no_longer() {
        let (a, b) = (
            Tensor::full([8, 8], 1.0 + 2_f64.powi(-12), (Kind::Float, Device::Cpu)),
            Tensor::eye(8, (Kind::Float, Device::Cpu)),
        );
        let product = || a.matmul(&b);
        for kind in [Kind::BFloat16, Kind::Float] {
            let nested = || (product(), with_products_of(Kind::Float, Device::Cpu, product), product());
            let (outer, inner, after) = with_products_of(kind, Device::Cpu, nested);
            assert_eq!([outer.kind(), inner.kind(), after.kind()], [kind, Kind::Float, kind]);
        }
        assert_eq!(product().kind(), Kind::Float);
    }

    #[test]
    fn the_bytes_of_a_tensor_give_it_again() {
        for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::Int64, Kind::Bool] {
            let values = Tensor::arange(6, (Kind::Float, Device::Cpu)).to_kind(kind);
            for tensor in [values.view([2, 3]).tr(), values.get(3), values.narrow(0, 0, 0)] {
                let bytes = copied(&tensor, Device::Cpu).expect("memory");
                let again = bytes.view_dtype(kind).view(tensor.size().as_slice());
                assert!(again.size() == tensor.size() && again.equal(&tensor), "{kind:?}, {:?}", tensor.size());
            }
        }
    }

    #[test]
    fn products_are_watched_with_their_sizes() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let compute = || {
            let _no_grad = tch::no_grad_guard();
            let ys = zeros(&[2, 4, 9, 9]).conv2d(&zeros(&[6, 2, 3, 3]), None::<&Tensor>, 2, 1, 1, 2);
            let product = zeros(&[3, 5, 7]).bmm(&zeros(&[3, 7, 2])).relu();
            let _ = zeros(&[5, 7]).linear(&zeros(&[2, 7]), Some(&zeros(&[2])));
            (ys.size(), product.size())
        };
        let ((convolved, _), products) = watched_products(compute).expect("libtorch watches");
        assert_eq!(convolved, [2, 6, 5, 5]);
        let found: Vec<_> = products.iter().map(|product| (product.name.as_str(), product.flop)).collect();
        let expected = [
            ("convolution 3 x 3, 4 -> 6, 2 x 5 x 5, 2 groups", 2.0 * 2.0 * 25.0 * 6.0 * 2.0 * 9.0),
            ("product, 3 x 5 x 7 x 2", 2.0 * 3.0 * 5.0 * 7.0 * 2.0),
            ("product, 5 x 7 x 2", 2.0 * 5.0 * 7.0 * 2.0),
        ];
        assert_eq!(found, expected);
        assert!(products.iter().all(|product| product.seconds > 0.0));
        let _ = zeros(&[5, 7]).mm(&zeros(&[7, 2]));
        let (_, none) = watched_products(|| ()).expect("libtorch watches");
        assert_eq!(none, []);
    }

    #[test]
    fn the_probe_finds_rounded_inputs_and_none_in_f32() {
        forbid_tf32().expect("libtorch has the switch");
        assert!(!rounds_inputs(Device::Cpu, Kind::Float).expect("it is computed"));
        assert!(rounds_inputs(Device::Cpu, Kind::BFloat16).expect("it is computed"), "bf16 has 8 bits, as TF32 has 11");
    }

    #[test]
    fn bytes_go_to_a_device_and_floats_come_back() {
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(&[1, 2, 3, 250, 5, 6]);
        let placed = placed(&[2, 3], Kind::Uint8, Device::Cpu, fill).expect("memory");
        assert_eq!((placed.kind(), placed.size()), (Kind::Uint8, vec![2, 3]));
        let fetch = Fetch::of(&placed.transpose(0, 1)).expect("memory");
        assert_eq!(fetch.wait().expect("nothing fails"), [1.0, 250.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn bytes_of_a_new_tensor_are_those_that_were_filled_in() {
        let (tensor, n) = host_bytes(3, Device::Cpu, |bytes| {
            bytes.copy_from_slice(&[7, 8, 9]);
            bytes.len()
        })
        .expect("memory");
        assert_eq!((Vec::<u8>::try_from(tensor).expect("bytes"), n), (vec![7, 8, 9], 3));
        assert_eq!(host_bytes(0, Device::Cpu, |_| ()).expect("memory").0.numel(), 0);
    }

    #[test]
    fn a_cpu_has_no_memory_of_its_own_and_this_machine_may_have_no_driver() {
        assert_eq!(memory(Device::Cpu), None);
        let gpu = Gpu { name: None, capability: Some((7, 5)), driver_cuda: None, memory: None };
        assert_eq!((gpu.has_fast_f16(), gpu.has_bf16_and_tf32()), (Some(true), Some(false)));
        assert_eq!(Gpu { capability: None, ..gpu }.has_fast_f16(), None);
    }
}
