//! The C++ functions of `shim.cpp`, behind safe ones. tch binds neither libtorch's switches of number types nor its
//! events, its allocators' figures or its optimisers over lists of tensors.
#![allow(unsafe_code, reason = "calls into C++; each call says why it is sound")]

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Kind, TchError, Tensor};

use super::{AdamConstants, Product};

unsafe extern "C" {
    safe fn agiqa_error() -> *const c_char;
    safe fn agiqa_allow_tf32(allowed: c_int) -> c_int;
    safe fn agiqa_memory(device: c_int, free: &mut u64, total: &mut u64) -> c_int;
    safe fn agiqa_allocated(device: c_int, now: &mut i64, peak: &mut i64, reserved: &mut i64) -> c_int;
    safe fn agiqa_event(device: c_int) -> *mut c_void;
    fn agiqa_event_wait(event: *const c_void) -> c_int;
    fn agiqa_event_free(event: *mut c_void);
    safe fn agiqa_bytes(n: i64, pinned: c_int) -> *mut c_void;
    fn agiqa_adam(
        decoupled: c_int,
        n: usize,
        parameters: *const *const c_void,
        gradients: *const *const c_void,
        first: *const *const c_void,
        second: *const *const c_void,
        step: *const c_void,
        skipped: *const c_void,
        rate: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        epsilon: f64,
    ) -> c_int;
    fn agiqa_lerp(n: usize, averages: *const *const c_void, values: *const *const c_void, weight: f64) -> c_int;
    safe fn agiqa_autocast(cuda: c_int, products: c_int, before: &mut c_int) -> c_int;
    safe fn agiqa_products_begin(handle: &mut u64) -> c_int;
    fn agiqa_products_end(
        handle: u64,
        context: *mut c_void,
        each: extern "C" fn(*mut c_void, *const c_char, f64, f64),
    ) -> c_int;
    fn agiqa_driver(
        device: c_int,
        name: *mut c_char,
        n_name: c_int,
        major: &mut c_int,
        minor: &mut c_int,
        version: &mut c_int,
    ) -> c_int;
}

fn failure() -> TchError {
    // SAFETY: the text belongs to this thread and stays until the thread's next failure; it is copied here.
    TchError::Torch(unsafe { CStr::from_ptr(agiqa_error()) }.to_string_lossy().into_owned())
}

fn checked(code: c_int) -> Result<(), TchError> {
    if code == 0 { Ok(()) } else { Err(failure()) }
}

pub(super) fn allow_tf32(is_allowed: bool) -> Result<(), TchError> {
    checked(agiqa_allow_tf32(c_int::from(is_allowed)))
}

/// Free and total bytes.
pub(super) fn memory(device: usize) -> Result<(u64, u64), TchError> {
    let (mut free, mut total) = (0, 0);
    checked(agiqa_memory(device as c_int, &mut free, &mut total))?;
    Ok((free, total))
}

/// Bytes that libtorch has allocated now, their peak since the last call, and the bytes that it has reserved.
pub(super) fn allocated(device: usize) -> Result<[u64; 3], TchError> {
    let (mut now, mut peak, mut reserved) = (0, 0, 0);
    checked(agiqa_allocated(device as c_int, &mut now, &mut peak, &mut reserved))?;
    Ok([now, peak, reserved].map(i64::unsigned_abs))
}

/// A point in the work of a device.
#[derive(Debug)]
pub(super) struct Event(*mut c_void);

impl Event {
    /// The point after all work that this thread has given to the device.
    pub(super) fn after_all_work(device: usize) -> Result<Self, TchError> {
        let event = agiqa_event(device as c_int);
        if event.is_null() { Err(failure()) } else { Ok(Self(event)) }
    }

    pub(super) fn wait(&self) -> Result<(), TchError> {
        // SAFETY: the pointer is an event of this value, which lives.
        checked(unsafe { agiqa_event_wait(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the pointer is an event of this value, and nothing uses it afterwards.
        unsafe { agiqa_event_free(self.0) }
    }
}

/// A new tensor of `n` bytes on the CPU, in pinned memory if `is_pinned`, which `fill` writes, and its result.
pub(super) fn bytes<R>(n: usize, is_pinned: bool, fill: impl FnOnce(&mut [u8]) -> R) -> Result<(Tensor, R), TchError> {
    let made = agiqa_bytes(n as i64, c_int::from(is_pinned));
    if made.is_null() {
        return Err(failure());
    }
    // SAFETY: the pointer is a new tensor that nobody else owns.
    let tensor = unsafe { Tensor::from_ptr(made.cast()) };
    if n == 0 {
        return Ok((tensor, fill(&mut [])));
    }
    let start: *mut u8 = tensor.data_ptr().cast();
    // SAFETY: libtorch has allocated `n` bytes for this tensor, which nobody else knows yet. Their values are those that
    // memory had; any byte is a `u8`.
    let filled = fill(unsafe { std::slice::from_raw_parts_mut(start, n) });
    Ok((tensor, filled))
}

fn pointers(tensors: &[Tensor]) -> Vec<*const c_void> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast()).collect()
}

/// One step of Adam on `tensors`: parameters, gradients, first and second moments, as many of each.
pub(super) fn adam(
    constants: &AdamConstants,
    rate: f64,
    step: &Tensor,
    skipped: Option<&Tensor>,
    tensors: [&[Tensor]; 4],
) -> Result<(), TchError> {
    let AdamConstants { is_decoupled, betas, decay, epsilon } = *constants;
    let lists = tensors.map(pointers);
    let n = lists[0].len();
    assert!(lists.iter().all(|list| list.len() == n), "one gradient and two moments per parameter");
    let [parameters, gradients, first, second] = lists.each_ref().map(Vec::as_ptr);
    // SAFETY: each list has `n` pointers to tensors that live during the call, as do the other two.
    checked(unsafe {
        agiqa_adam(
            c_int::from(is_decoupled),
            n,
            parameters,
            gradients,
            first,
            second,
            step.as_ptr().cast(),
            skipped.map_or(std::ptr::null(), |skipped| skipped.as_ptr().cast()),
            rate,
            betas[0],
            betas[1],
            decay,
            epsilon,
        )
    })
}

pub(super) fn lerp(averages: &[Tensor], values: &[Tensor], weight: f64) -> Result<(), TchError> {
    assert_eq!(averages.len(), values.len(), "one average per value");
    let (averages, values) = (pointers(averages), pointers(values));
    // SAFETY: each list has as many pointers to tensors that live during the call.
    checked(unsafe { agiqa_lerp(averages.len(), averages.as_ptr(), values.as_ptr(), weight) })
}

/// The calling thread's products are computed in another type while this value lives.
pub(super) struct Products {
    is_cuda: bool,
    before: c_int,
}

impl Products {
    /// Products on CUDA devices or on CPUs in `kind`; f32 stands for the type of their inputs.
    pub(super) fn of(kind: Kind, is_cuda: bool) -> Result<Self, TchError> {
        let products = match kind {
            Kind::Half => 2,
            Kind::BFloat16 => 1,
            _ => 0,
        };
        let mut before = 0;
        checked(agiqa_autocast(c_int::from(is_cuda), products, &mut before))?;
        Ok(Self { is_cuda, before })
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        agiqa_autocast(c_int::from(self.is_cuda), self.before, &mut 0);
    }
}

/// What `compute` returns, and the products that it computes on the calling thread.
pub(super) fn products_of<T>(compute: impl FnOnce() -> T) -> Result<(T, Vec<Product>), TchError> {
    extern "C" fn each(found: *mut c_void, name: *const c_char, flop: f64, seconds: f64) {
        // SAFETY: `found` is the list below, which nothing else uses during the call, and `name` is a text of C.
        let (found, name) = unsafe { (&mut *found.cast::<Vec<Product>>(), CStr::from_ptr(name)) };
        found.push(Product { name: name.to_string_lossy().into_owned(), flop, seconds });
    }
    let mut handle = 0;
    checked(agiqa_products_begin(&mut handle))?;
    let computed = compute();
    let mut found: Vec<Product> = Vec::new();
    // SAFETY: `each` takes the context for a list of this type.
    checked(unsafe { agiqa_products_end(handle, (&raw mut found).cast(), each) })?;
    Ok((computed, found))
}

/// What the driver says of a device.
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) capability: (u32, u32),
    /// Highest version of CUDA that the driver serves, e.g. 13000.
    pub(super) cuda: u32,
}

pub(super) fn driver(device: usize) -> Option<Driver> {
    let (mut name, mut major, mut minor, mut version) = ([0_u8; 256], 0, 0, 0);
    let (start, n_name) = (name.as_mut_ptr().cast(), name.len() as c_int - 1);
    // SAFETY: the buffer has one byte more than the call may write, so its text ends.
    let is_there = unsafe { agiqa_driver(device as c_int, start, n_name, &mut major, &mut minor, &mut version) };
    let text = CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned();
    (is_there != 0).then(|| Driver {
        name: text,
        capability: (major.unsigned_abs(), minor.unsigned_abs()),
        cuda: version.unsigned_abs(),
    })
}
