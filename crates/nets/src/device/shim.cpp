// What libtorch offers for devices and tch does not bind. Only headers that the CPU build of libtorch has, too, are
// included: streams and allocators are reached through c10's device-independent interfaces, and the driver through its
// own library. No exception leaves a function: a result of 0 (or no null pointer; of agiqa_driver, 1) is success, and
// `agiqa_error` gives the text of the thread's last failure.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <chrono>
#include <sstream>

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

// Products that the thread has computed since it began to watch them. An operation within a watched one is a part of it.
struct Watched {
  struct Product {
    std::string name;
    double flop, seconds;
  };
  std::vector<Product> products;
  int depth = 0;
};

thread_local Watched watched;

struct Running : at::ObserverContext {
  std::string name;
  double flop = 0;
  std::chrono::steady_clock::time_point started;
};

// The operation in words with its sizes, and its floating-point operations; no name for an operation that is no product.
std::unique_ptr<Running> product_of(const at::RecordFunction& function) {
  const std::string operation = function.name();
  const auto inputs = function.inputs();
  const auto tensor = [&](size_t i) { return inputs[i].toTensor(); };
  auto running = std::make_unique<Running>();
  std::ostringstream name;
  if (operation == "aten::convolution") {
    const auto xs = tensor(0).sizes(), weight = tensor(1).sizes();
    const auto stride = inputs[3].toIntVector(), padding = inputs[4].toIntVector();
    if (xs.size() != 4 || weight.size() != 4) return running;
    // One number stands for both directions.
    const auto along = [](const std::vector<int64_t>& list, size_t i) { return list[std::min(i, list.size() - 1)]; };
    const auto length = [&](size_t i) {
      return (xs[2 + i] + 2 * along(padding, i) - weight[2 + i]) / along(stride, i) + 1;
    };
    const int64_t height = length(0), width = length(1);
    name << "convolution " << weight[2] << " x " << weight[3] << ", " << xs[1] << " -> " << weight[0] << ", " << xs[0]
         << " x " << height << " x " << width;
    if (xs[1] != weight[1]) name << ", " << xs[1] / weight[1] << " groups";
    running->flop = 2.0 * xs[0] * height * width * weight[0] * weight[1] * weight[2] * weight[3];
  } else if (operation == "aten::scaled_dot_product_attention") {
    const auto q = tensor(0).sizes(), k = tensor(1).sizes();
    const double n = tensor(0).numel() / (q[q.size() - 1] * q[q.size() - 2]);
    name << "attention, " << n << " x " << q[q.size() - 2] << " x " << k[k.size() - 2] << " x " << q[q.size() - 1];
    running->flop = 4.0 * n * q[q.size() - 2] * k[k.size() - 2] * q[q.size() - 1];
  } else if (operation == "aten::mm" || operation == "aten::bmm" || operation == "aten::addmm" ||
             operation == "aten::baddbmm") {
    const size_t first = operation == "aten::addmm" || operation == "aten::baddbmm" ? 1 : 0;
    const auto a = tensor(first).sizes(), b = tensor(first + 1).sizes();
    const int64_t n = a.size() == 3 ? a[0] : 1, rows = a[a.size() - 2], inner = a.back(), columns = b.back();
    name << "product, ";
    if (n > 1) name << n << " x ";
    name << rows << " x " << inner << " x " << columns;
    running->flop = 2.0 * n * rows * inner * columns;
  }
  running->name = name.str();
  return running;
}

std::unique_ptr<at::ObserverContext> product_starts(const at::RecordFunction& function) {
  if (watched.depth > 0) {
    ++watched.depth;
    return nullptr;
  }
  auto running = product_of(function);
  if (running->name.empty()) return nullptr;
  ++watched.depth;
  running->started = std::chrono::steady_clock::now();
  return running;
}

void product_ends(const at::RecordFunction&, at::ObserverContext* context) {
  if (watched.depth > 0) --watched.depth;
  if (!context) return;
  auto* running = static_cast<Running*>(context);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - running->started;
  watched.products.push_back({running->name, running->flop, seconds.count()});
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

// Computes the calling thread's products on CUDA devices (`cuda`) or on CPUs in f16 (2) or bf16 (1), whatever their inputs'
// types are, or in those types (0). `before` is what was set.
int agiqa_autocast(int cuda, int products, int* before) {
  return guarded([&] {
    const auto type = cuda ? at::kCUDA : at::kCPU;
    const bool was_half = at::autocast::get_autocast_dtype(type) == at::kHalf;
    *before = !at::autocast::is_autocast_enabled(type) ? 0 : was_half ? 2 : 1;
    if (products) at::autocast::set_autocast_dtype(type, products == 2 ? at::kHalf : at::kBFloat16);
    at::autocast::set_autocast_enabled(type, products != 0);
  });
}

// Begins to watch the calling thread's products. The result is given to `agiqa_products_end`.
int agiqa_products_begin(uint64_t* handle) {
  return guarded([&] {
    watched = {};
    auto callback = at::RecordFunctionCallback(product_starts, product_ends);
    *handle = at::addThreadLocalCallback(callback.needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  });
}

// Ends it and gives each product to `each`, in the order of their ends.
int agiqa_products_end(uint64_t handle, void* context, void (*each)(void*, const char*, double, double)) {
  return guarded([&] {
    at::removeCallback(handle);
    const auto found = std::exchange(watched, {});
    for (const auto& product : found.products) each(context, product.name.c_str(), product.flop, product.seconds);
  });
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
