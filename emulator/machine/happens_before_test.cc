// What threads know of each other, and of copies.
#include "emulator/machine/happens_before.h"

#include "emulator/machine/testing.h"

namespace emulator {
namespace {

constexpr Mask kFirst = 1, kSecond = 2;

uint32_t component(uint32_t warp, uint32_t lane) { return warp * kLanes + lane; }

// Whether a thread knows what another one did up to a time.
bool knows(const HappensBefore& order, uint32_t warp, int lane, uint32_t other, uint32_t time) {
  return (*order.knowledge(warp, lane).now.seen)[other] >= time;
}
bool has_fenced(const HappensBefore& order, uint32_t warp, int lane, uint32_t other, uint32_t time) {
  return (*order.knowledge(warp, lane).now.fenced)[other] >= time;
}

void test_release_and_acquire() {
  HappensBefore order(2);
  Published barrier;
  const uint32_t before = order.time(0);
  order.release(0, kFirst, barrier);
  const uint32_t after = order.time(0);
  CHECK(after > before);
  order.acquire(1, kSecond, barrier);
  CHECK(knows(order, 1, 1, component(0, 0), before));
  CHECK(!knows(order, 1, 1, component(0, 0), after));
  CHECK(!knows(order, 1, 1, component(0, 1), before), "another lane published nothing");
  CHECK(!knows(order, 1, 0, component(0, 0), before), "another lane acquired nothing");
  // Who learned it hands it on.
  Published next;
  order.release(1, kSecond, next);
  order.acquire(0, kSecond, next);
  CHECK(knows(order, 0, 1, component(0, 0), before));
  CHECK(!knows(order, 0, 2, component(0, 0), before));
}

void test_lanes_that_meet() {
  HappensBefore order(2);
  Published barrier;
  order.release(1, kAllLanes, barrier);
  order.acquire(0, kFirst, barrier);
  const uint32_t time = order.time(0);
  CHECK(!order.know_the_same(0));
  order.meet(0, kFirst | kSecond);
  CHECK(knows(order, 0, 1, component(1, 7), 1) && knows(order, 0, 1, component(0, 0), time));
  CHECK(knows(order, 0, 0, component(0, 1), time) && !knows(order, 0, 0, component(0, 2), time));
  CHECK(!knows(order, 0, 2, component(1, 7), 1));
  CHECK(order.lanes_that_know_as(0, 1) == (kFirst | kSecond));
  order.meet(0, kAllLanes);
  CHECK(order.know_the_same(0) && knows(order, 0, 31, component(1, 7), 1));
}

void test_fences() {
  HappensBefore order(2);
  Published flag;
  order.release_relaxed(0, kFirst, flag);
  order.acquire_relaxed(1, kFirst, flag);
  order.fence(1, kFirst);
  CHECK(!knows(order, 1, 0, component(0, 0), 1), "there was no fence before the write");
  const uint32_t time = order.time(0);
  order.fence(0, kFirst);
  order.release_relaxed(0, kFirst, flag);
  order.acquire_relaxed(1, kFirst, flag);
  CHECK(!knows(order, 1, 0, component(0, 0), time), "there was no fence after the read");
  order.fence(1, kFirst);
  CHECK(knows(order, 1, 0, component(0, 0), time));
}

void test_proxy_fences() {
  HappensBefore order(2);
  Published barrier;
  const uint32_t time = order.time(0);
  order.release(0, kFirst, barrier);
  order.acquire(1, kAllLanes, barrier);
  CHECK(!has_fenced(order, 1, 0, component(0, 0), time));
  order.fence_proxy(1, kFirst);
  CHECK(has_fenced(order, 1, 0, component(0, 0), time));
  CHECK(!has_fenced(order, 1, 1, component(0, 0), time));
  // The writer's own, which others learn of with the rest.
  const uint32_t later = order.time(0);
  order.fence_proxy(0, kFirst);
  order.release(0, kFirst, barrier);
  order.acquire(1, kSecond, barrier);
  CHECK(has_fenced(order, 1, 1, component(0, 0), later));
}

void test_counted_copies() {
  HappensBefore order(1);
  const auto kind = Counted::kCopies;
  const uint32_t first = order.counted_component(0, kind);
  const uint32_t one = order.count_copy(0, kind);
  order.commit(0, kFirst, kind);
  const uint32_t two = order.count_copy(0, kind);
  order.commit(0, kFirst, kind);
  CHECK(one < two && first == order.counted_component(0, kind));
  order.wait(0, kFirst, kind, 1);
  CHECK(order.known_copies(0, 0)[size_t(kind)] == one);
  order.wait(0, kSecond, kind, 0);
  CHECK(order.known_copies(0, 1)[size_t(kind)] == 0, "another lane's");
  order.meet(0, kAllLanes);
  CHECK(knows(order, 0, 5, first, one) && !knows(order, 0, 5, first, two));
  order.wait(0, kFirst, kind, 0);
  CHECK(order.known_copies(0, 0)[size_t(kind)] == two);
}

void test_products() {
  HappensBefore order(1);
  const uint32_t component = order.product_component(0);
  const uint32_t one = order.count_product(0);
  order.commit_products(0);
  const uint32_t two = order.count_product(0);
  CHECK(order.wait_for_products(0, 0) == one, "the second is of no group");
  CHECK(knows(order, 0, 3, component, one) && !knows(order, 0, 3, component, two));
  order.commit_products(0);
  CHECK(order.wait_for_products(0, 1) == one && order.wait_for_products(0, 0) == two);
}

void test_clocks() {
  SharedClock one, two;
  one.raise(3, 5);
  two = one;
  two.raise(1, 1);
  CHECK((*one)[1] == 0 && (*two)[3] == 5 && (*two)[100] == 0, "a copy changes by itself");
  one.join(two);
  CHECK(one == two, "who knows less takes the other's");
  one.raise(70, 2);
  two.raise(2, 9);
  one.join(two);
  CHECK((*one)[70] == 2 && (*one)[2] == 9 && (*one)[3] == 5 && (*two)[70] == 0);
}

}  // namespace
}  // namespace emulator

int main() {
  emulator::test_clocks();
  emulator::test_release_and_acquire();
  emulator::test_lanes_that_meet();
  emulator::test_fences();
  emulator::test_proxy_fences();
  emulator::test_counted_copies();
  emulator::test_products();
  return emulator::verdict();
}
