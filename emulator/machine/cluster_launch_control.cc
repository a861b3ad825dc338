// clusterlaunchcontrol: a cluster that runs takes over the work of one that has not begun.
//
// The response is opaque: the first CTA of the cluster that will not run, and whether there is one.
#include <cstring>
#include <optional>

#include "emulator/machine/copies.h"
#include "emulator/machine/machine.h"

namespace emulator {
namespace {

struct Response {
  uint32_t first_cta[3];
  uint32_t is_canceled;
};
constexpr uint32_t kBytes = sizeof(Response);
static_assert(kBytes == 16);

Response request(Cta& cta) {
  const std::optional<Dim3> cluster = cta.grid().cancel_cluster();
  if (!cluster) return {{~0u, ~0u, ~0u}, 0};
  const Dim3 size = cta.cluster().dims();
  return {{cluster->x * size.x, cluster->y * size.y, cluster->z * size.z}, 1};
}

// Operands: where the response is put, the barrier. modes: whether every CTA of the cluster gets it.
Step try_cancel(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const bool is_multicast = instruction.modes[0];
  if (cta.saw_no_cluster_left) {
    throw Fault(FaultCode::kIllegalInstruction,
                "A CTA tries to cancel another cluster after it was told that there is none left.");
  }
  for_lanes(mask, [&](int lane) {
    Delivery delivery;
    delivery.destination = uint32_t(warp.address(instruction.operands[0], lane) & ~kWindowMask);
    delivery.barrier = uint32_t(warp.address(instruction.operands[1], lane) & ~kWindowMask);
    need_own(cta, delivery.destination);
    need_own(cta, delivery.barrier);
    need_alignment(delivery.destination, kBytes, "response");
    need_alignment(delivery.barrier, 8, "mbarrier");
    if (is_multicast) delivery.ctas = uint16_t((1u << cta.cluster().ctas().size()) - 1);
    cta.issue(Mask{1} << lane, Completion::kMbarrier, [&cta, delivery] {
      const Response response = request(cta);
      delivery.for_each([&](uint32_t destination, uint32_t barrier) {
        std::memcpy(cta.cluster().shared(destination, kBytes, Access::kWrite), &response, kBytes);
        cta.cluster().complete_transaction(barrier, kBytes);
      });
    });
  });
  return Step::kNext;
}

Response response_of(Warp& warp, const Operand& operand, int lane) {
  Response response;
  std::memcpy(&response, warp.bytes(operand, lane), kBytes);
  return response;
}

// Operands: predicate, response.
Step is_canceled(Warp& warp, const Instruction& instruction, Mask mask) {
  Mask canceled = 0;
  for_lanes(mask, [&](int lane) {
    canceled |= Mask{response_of(warp, instruction.operands[1], lane).is_canceled & 1} << lane;
  });
  if (canceled != mask) warp.cta().saw_no_cluster_left = true;
  warp.set_predicate(instruction.operands[0], canceled, mask);
  return Step::kNext;
}

// Operands: the results, response. modes: the first dimension that is asked for, how many results there are.
Step first_cta(Warp& warp, const Instruction& instruction, Mask mask) {
  const int first = instruction.modes[0], count = instruction.modes[1];
  for_lanes(mask, [&](int lane) {
    const Response response = response_of(warp, instruction.operands[count], lane);
    for (int i = 0; i < count; ++i) {
      // The fourth of a vector means nothing.
      const uint32_t value = first + i < 3 ? response.first_cta[first + i] : 0;
      if (instruction.operands[i].bits) warp.put<uint32_t>(instruction.operands[i], lane, value);
    }
  });
  return Step::kNext;
}

void lower_try_cancel(Lowering& l) {
  if (!l.take("async")) l.unknown("it is not .async");
  l.take("shared::cta");
  if (!l.take("mbarrier::complete_tx::bytes")) l.unknown("it does not complete on an mbarrier");
  l.out.modes[0] = l.take("multicast::cluster::all");
  if (!l.take("b128")) l.unknown("it is not .b128");
  need_operands(l, 2);
  l.address(0);
  l.address(1);
  l.out.run = try_cancel;
}

void lower_query(Lowering& l) {
  need_operands(l, 2);
  const std::string_view what = l.need_one_of(
      {"is_canceled", "get_first_ctaid", "get_first_ctaid::x", "get_first_ctaid::y", "get_first_ctaid::z"});
  if (what == "is_canceled") {
    if (!l.take("pred")) l.unknown("its result is no predicate");
    l.predicate_destination(0);
    l.out.run = is_canceled;
  } else {
    const bool is_vector = what == "get_first_ctaid";
    if (is_vector != l.take("v4") || !l.take("b32")) l.unknown("its result is of another type");
    size_t count = 0;
    l.destinations(0, 32, &count);
    if (count != (is_vector ? 4 : 1)) l.unknown("it has another number of results than expected");
    l.out.modes = {is_vector ? 0 : what.back() - 'x', int32_t(count)};
    l.out.run = first_cta;
  }
  if (!l.take("b128")) l.unknown("it is not .b128");
  l.source(1, 128);
}

void lower_control(Lowering& l) {
  l.need_architecture(100);
  l.need_one_of({"try_cancel", "query_cancel"}) == "try_cancel" ? lower_try_cancel(l) : lower_query(l);
}

}  // namespace

void add_cluster_launch_control(InstructionSet& set) { set["clusterlaunchcontrol"] = lower_control; }

}  // namespace emulator
