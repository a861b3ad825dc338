// Streams and events. All work is done when the call that asks for it returns, so that there is nothing to wait for.
#include <algorithm>
#include <chrono>
#include <memory>
#include <unordered_map>

#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

using Clock = std::chrono::steady_clock;

struct Stream {
  unsigned flags = 0;
  int priority = 0;
  unsigned long long id = 0;
};

struct Event {
  unsigned flags = 0;
  bool was_recorded = false;
  Clock::time_point time;
};

// The streams and events that exist, by their handles.
struct Handles {
  std::mutex mutex;
  std::unordered_map<const void*, std::unique_ptr<Stream>> streams;
  std::unordered_map<const void*, std::unique_ptr<Event>> events;
  unsigned long long next_id = 16;  // below: the streams that always exist
};

Handles& handles() {
  static Handles* handles = new Handles;
  return *handles;
}

// What a stream is, or nothing. The default streams exist always.
std::optional<Stream> find(cudaStream_t stream) {
  if (!stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
    return Stream{cudaStreamDefault, 0, reinterpret_cast<unsigned long long>(stream)};
  }
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto found = all.streams.find(stream);
  return found == all.streams.end() ? std::nullopt : std::optional(*found->second);
}

std::optional<Event> find(cudaEvent_t event) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto found = all.events.find(event);
  return found == all.events.end() ? std::nullopt : std::optional(*found->second);
}

// Calls on a stream or event that need nothing but that it exists.
template <typename Handle>
cudaError_t require(Handle handle) {
  return find(handle) ? cudaSuccess : fail(cudaErrorInvalidResourceHandle);
}

template <typename Handle>
cudaError_t wait_for(Handle handle) {
  if (const cudaError_t error = require(handle); error != cudaSuccess) return error;
  return wait_for_device();
}

}  // namespace
}  // namespace emulator::runtime

using namespace emulator::runtime;

// --- Streams

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
  if (!stream || (flags & ~unsigned(cudaStreamNonBlocking)) != 0) return fail(cudaErrorInvalidValue);
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  auto made = std::make_unique<Stream>(Stream{flags, std::clamp(priority, kGreatestPriority, 0), all.next_id++});
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  all.streams[*stream] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  return all.streams.erase(stream) ? cudaSuccess : fail(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream); }

cudaError_t cudaStreamQuery(cudaStream_t stream) { return wait_for(stream); }

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  if (flags != cudaEventWaitDefault && flags != cudaEventWaitExternal) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  return require(event);
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  if (!priority) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  *priority = find(stream)->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned int* flags) {
  if (!flags) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  *flags = find(stream)->flags;
  return cudaSuccess;
}

cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
  if (!id) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  *id = find(stream)->id;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (!status) return fail(cudaErrorInvalidValue);
  *status = cudaStreamCaptureStatusNone;
  return require(stream);
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned int flags) {
  if (!callback || flags != 0) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}

cudaError_t cudaStreamAttachMemAsync(cudaStream_t stream, void*, size_t, unsigned int) { return require(stream); }

// --- Events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  constexpr unsigned kFlags = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
  if (!event || (flags & ~kFlags) != 0) return fail(cudaErrorInvalidValue);
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  auto made = std::make_unique<Event>(Event{flags, false, {}});
  *event = reinterpret_cast<cudaEvent_t>(made.get());
  all.events[*event] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  return all.events.erase(event) ? cudaSuccess : fail(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = require(stream); error != cudaSuccess) return error;
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto found = all.events.find(event);
  if (found == all.events.end()) return fail(cudaErrorInvalidResourceHandle);
  found->second->was_recorded = true;
  found->second->time = Clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return wait_for(event); }

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return wait_for(event); }

// The time that the emulator took.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!milliseconds) return fail(cudaErrorInvalidValue);
  const std::optional<Event> first = find(begin), second = find(end);
  for (const auto& event : {first, second}) {
    if (!event || !event->was_recorded || event->flags & cudaEventDisableTiming) {
      return fail(cudaErrorInvalidResourceHandle);
    }
  }
  *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
  return cudaSuccess;
}
