// What libtorch offers for devices and tch does not bind. Only headers that the CPU build of libtorch has, too, are
// included: streams and allocators are reached through c10's device-independent interfaces, and the driver through its
// own library. No exception leaves a function: a result of 0 (or no null pointer; of agiqa_driver, 1) is success, and
// `agiqa_error` gives the text of the thread's last failure.
#include <ATen/Context.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

namespace {

thread_local std::string last_error;

template <typename F>
int guarded(F run) {
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an unknown error of libtorch";
  }
  return 1;
}

std::vector<at::Tensor> list(size_t n, const void* const* tensors) {
  std::vector<at::Tensor> all;
  all.reserve(n);
  for (size_t i = 0; i < n; ++i) all.push_back(*static_cast<const at::Tensor*>(tensors[i]));
  return all;
}

template <typename F>
F driver_function(void* driver, const char* name) {
  return driver ? reinterpret_cast<F>(dlsym(driver, name)) : nullptr;
}

}  // namespace

extern "C" {

const char* agiqa_error() { return last_error.c_str(); }

int agiqa_allow_tf32(int allowed) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
    at::globalContext().setAllowTF32CuDNN(allowed != 0);
  });
}

// Free and total bytes of a CUDA device.
int agiqa_memory(int device, uint64_t* free, uint64_t* total) {
  return guarded([&] {
    const auto found = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free = found.first;
    *total = found.second;
  });
}

// Bytes that libtorch has allocated on a CUDA device now, their peak since the last call, and the bytes that it has
// reserved for itself.
int agiqa_allocated(int device, int64_t* now, int64_t* peak, int64_t* reserved) {
  return guarded([&] {
    auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    const auto index = static_cast<c10::DeviceIndex>(device);
    const auto stats = allocator->getDeviceStats(index);
    *now = stats.allocated_bytes[0].current;
    *peak = stats.allocated_bytes[0].peak;
    *reserved = stats.reserved_bytes[0].current;
    allocator->resetPeakStats(index);
  });
}

// An event after all work that the calling thread has given to the device's current stream.
void* agiqa_event(int device) {
  c10::Event* event = nullptr;
  guarded([&] {
    const c10::Device where(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    auto made = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    made->record(guard.getStream(where));
    event = made.release();
  });
  return event;
}

int agiqa_event_wait(const void* event) {
  return guarded([&] { static_cast<const c10::Event*>(event)->synchronize(); });
}

void agiqa_event_free(void* event) { delete static_cast<c10::Event*>(event); }

// A new tensor of bytes on the CPU; the caller owns it.
void* agiqa_bytes(int64_t n, int pinned) {
  at::Tensor* made = nullptr;
  guarded([&] {
    made = new at::Tensor(at::empty({n}, at::TensorOptions().dtype(at::kByte).pinned_memory(pinned != 0)));
  });
  return made;
}

// One step of Adam (AdamW if `decoupled`) on `n` parameters; `step` is a float tensor with the number of this step. If
// `skipped` is no null pointer and its tensor holds 1, the step changes nothing.
int agiqa_adam(int decoupled, size_t n, const void* const* parameters, const void* const* gradients,
               const void* const* first, const void* const* second, const void* step, const void* skipped, double rate,
               double beta1, double beta2, double decay, double epsilon) {
  return guarded([&] {
    std::optional<at::Tensor> skip;
    if (skipped) skip = *static_cast<const at::Tensor*>(skipped);
    const auto values = list(n, parameters), slopes = list(n, gradients), m = list(n, first), v = list(n, second);
    const std::vector<at::Tensor> steps(n, *static_cast<const at::Tensor*>(step));
    if (decoupled) {
      at::_fused_adamw_(values, slopes, m, v, {}, steps, rate, beta1, beta2, decay, epsilon, false, false, {}, skip);
    } else {
      at::_fused_adam_(values, slopes, m, v, {}, steps, rate, beta1, beta2, decay, epsilon, false, false, {}, skip);
    }
  });
}

// Moves each of `n` averages by `weight` towards its value.
int agiqa_lerp(size_t n, const void* const* averages, const void* const* values, double weight) {
  return guarded([&] { at::_foreach_lerp_(list(n, averages), list(n, values), weight); });
}

// Name, compute capability and highest CUDA version of the driver; false without a driver.
int agiqa_driver(int device, char* name, int n_name, int* major, int* minor, int* version) {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  const auto init = driver_function<int (*)(unsigned)>(driver, "cuInit");
  const auto get = driver_function<int (*)(int*, int)>(driver, "cuDeviceGet");
  const auto get_name = driver_function<int (*)(char*, int, int)>(driver, "cuDeviceGetName");
  const auto attribute = driver_function<int (*)(int*, int, int)>(driver, "cuDeviceGetAttribute");
  const auto get_version = driver_function<int (*)(int*)>(driver, "cuDriverGetVersion");
  int handle = 0;
  // 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
  return init && get && get_name && attribute && get_version && init(0) == 0 && get(&handle, device) == 0 &&
         get_name(name, n_name, handle) == 0 && attribute(major, 75, handle) == 0 &&
         attribute(minor, 76, handle) == 0 && get_version(version) == 0;
}

}  // extern "C"
