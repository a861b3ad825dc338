// Who conflicts with whom, down to the byte; and that nothing is forgotten when old events are.
#include "emulator/machine/shadow_memory.h"

#include "emulator/machine/testing.h"

namespace emulator {
namespace {

constexpr uint32_t kBytes = 1024, kThread = 0, kOther = 32, kThird = 64;  // components, of lane 0

class Scene {
 public:
  ShadowMemory memory{1, kBytes};
  Conflict conflict = {};

  uint32_t event(uint32_t component, uint32_t time, bool is_async = false, bool is_strong = false) {
    return memory.add({nullptr, nullptr, 1, component, time, is_async, is_strong, false, is_strong});
  }
  // By lane 0 of a warp, which knows what `seen` and `fenced` know and what it did itself.
  bool write(uint32_t event, uint32_t offset, uint32_t bytes, const SharedClock& seen = {}, bool changes = true,
             const SharedClock& fenced = {}) {
    return touch(event, offset, bytes, seen, fenced, {nullptr, 0, 1, false, true, changes});
  }
  bool read(uint32_t event, uint32_t offset, uint32_t bytes, const SharedClock& seen = {},
            const SharedClock& fenced = {}) {
    return touch(event, offset, bytes, seen, fenced, {nullptr, 0, 1, true, false, true});
  }

 private:
  bool touch(uint32_t event, uint32_t offset, uint32_t bytes, const SharedClock& seen, const SharedClock& fenced,
             Touch touch) {
    Actor actor{seen, fenced, {}};
    actor.own[0] = {memory.event(event).component, 1, ~0u};
    touch.actor = &actor;
    touch.event = event;
    return memory.access(0, offset, bytes, touch, conflict);
  }
};

SharedClock knowing(uint32_t component, uint32_t time) {
  SharedClock clock;
  clock.raise(component, time);
  return clock;
}

void test_conflicts() {
  Scene scene;
  CHECK(scene.write(scene.event(kThread, 5), 16, 16));
  CHECK(scene.read(scene.event(kThread, 5), 16, 16), "its own");
  CHECK(scene.read(scene.event(kOther, 1), 32, 4), "elsewhere");
  CHECK(!scene.read(scene.event(kOther, 1), 28, 4));
  CHECK(scene.conflict.kind == Conflict::Kind::kUnordered && scene.conflict.offset == 28);
  CHECK(scene.conflict.was_write && scene.memory.event(scene.conflict.event).component == kThread);
  CHECK(!scene.read(scene.event(kOther, 1), 24, 8, knowing(kThread, 4)), "it knows too little");
  CHECK(scene.read(scene.event(kOther, 1), 24, 8, knowing(kThread, 5)));
  CHECK(!scene.write(scene.event(kThird, 1), 24, 4, knowing(kThread, 5)), "it does not know of the read");
  CHECK(!scene.conflict.was_write && scene.memory.event(scene.conflict.event).component == kOther);
  CHECK(scene.write(scene.event(kThird, 1), 20, 4, knowing(kThread, 5)), "which was elsewhere");
}

void test_bytes() {
  Scene scene;
  CHECK(scene.write(scene.event(kThread, 1), 5, 1));
  CHECK(scene.write(scene.event(kOther, 1), 6, 2) && scene.write(scene.event(kOther, 1), 4, 1));
  CHECK(!scene.read(scene.event(kOther, 1), 4, 4));
  CHECK(scene.conflict.offset == 5);
  CHECK(scene.write(scene.event(kOther, 1), 4, 4, knowing(kThread, 1)));
  CHECK(!scene.write(scene.event(kThread, 1), 7, 1));
}

void test_readers() {
  Scene scene;
  for (const uint32_t reader : {kThread, kOther, kThird}) CHECK(scene.read(scene.event(reader, 1), 0, 4));
  SharedClock two = knowing(kThread, 1);
  two.raise(kThird, 1);
  CHECK(!scene.write(scene.event(96, 1), 0, 4, two));
  CHECK(scene.memory.event(scene.conflict.event).component == kOther);
  two.raise(kOther, 1);
  CHECK(scene.write(scene.event(96, 1), 0, 4, two));
  // A reader who knows the ones before stands for them.
  CHECK(scene.read(scene.event(kThread, 2), 8, 4) && scene.read(scene.event(kOther, 2), 8, 4, knowing(kThread, 2)));
  CHECK(scene.write(scene.event(kThird, 2), 8, 4, knowing(kOther, 2)));
}

void test_strength_values_proxies() {
  Scene scene;
  CHECK(scene.write(scene.event(kThread, 1, false, true), 0, 4));
  CHECK(scene.write(scene.event(kOther, 1, false, true), 0, 4), "both are strong");
  CHECK(!scene.read(scene.event(kThird, 1), 0, 4));
  CHECK(!scene.write(scene.event(kThird, 1), 0, 4, knowing(kThread, 1)), "nor of the other strong one");
  CHECK(scene.write(scene.event(kThread, 1), 12, 4) && scene.write(scene.event(kThread, 2, false, true), 12, 4));
  CHECK(!scene.write(scene.event(kOther, 1, false, true), 12, 4), "the weak write, though a strong one followed");
  CHECK(scene.write(scene.event(kOther, 1, false, true), 12, 4, knowing(kThread, 1)));
  CHECK(scene.write(scene.event(kThread, 1), 4, 4) && scene.write(scene.event(kOther, 1), 4, 4, {}, false),
        "the same value");
  CHECK(scene.write(scene.event(kThread, 1), 8, 4));
  CHECK(!scene.read(scene.event(kOther, 1, true), 8, 4, knowing(kThread, 1)));
  CHECK(scene.conflict.kind == Conflict::Kind::kNoProxyFence);
  CHECK(scene.read(scene.event(kOther, 1, true), 8, 4, knowing(kThread, 1), knowing(kThread, 1)));
}

void test_many_events() {
  Scene scene;
  CHECK(scene.write(scene.event(kThread, 7), 512, 2));
  CHECK(scene.read(scene.event(kThread, 7), 600, 4) && scene.read(scene.event(kOther, 7), 600, 4));
  for (uint32_t i = 0; i < 1000000; ++i) CHECK(scene.write(scene.event(kThread, i), i % 64 * 4, 4));
  CHECK(scene.event(kThread, 1) < 200000, "events that no cell names are forgotten");
  CHECK(!scene.read(scene.event(kOther, 7), 512, 1, knowing(kThread, 6)));
  CHECK(scene.memory.event(scene.conflict.event).time == 7);
  CHECK(!scene.write(scene.event(kThird, 7), 600, 4, knowing(kThread, 7)));
  CHECK(scene.memory.event(scene.conflict.event).component == kOther);
}

}  // namespace
}  // namespace emulator

int main() {
  emulator::test_conflicts();
  emulator::test_bytes();
  emulator::test_readers();
  emulator::test_strength_values_proxies();
  emulator::test_many_events();
  return emulator::verdict();
}
