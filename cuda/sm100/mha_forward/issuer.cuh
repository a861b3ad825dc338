// The thread of SM100 multi-head attention, forward, that starts all matrix products.
#pragma once

#include "cuda/device/umma.cuh"
#include "cuda/sm100/mha_forward/roles.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

// Products are done in the order in which they are started: the scores of a block may be started as soon as the weights
// that lie in their place have been.
template <typename Config>
class Issuer {
 public:
  __device__ __forceinline__ explicit Issuer(typename Config::SharedStorage& shared)
      : shared_(shared), tensor_memory_(shared.tensor_memory) {}

  __device__ __forceinline__ void run() {
    for (;; ++items_) {
      const Item item = wait_for_item(shared_, items_);
      if (item.rows == 0) break;
      multiply(item);
      device::arrive(shared_.item_empty[items_ % 2]);
    }
  }

 private:
  static constexpr int kChunksOfPanel = Config::kPanelColumns / device::kProductDepth;
  static constexpr int kChunkRowBytes = device::kProductDepth * int(sizeof(typename Config::Element));
  static constexpr int kChunkColumnBytes = device::kProductDepth * Config::kPanelRowBytes;
  static constexpr int kChunkWeights = device::kProductDepth / 2;  // columns of tensor memory

  typename Config::SharedStorage& shared_;
  const uint32_t tensor_memory_;
  Ring<Config> ring_;
  uint32_t items_ = 0;
  uint32_t tiles_[Config::kTiles] = {},
           blocks_[Config::kTiles] = {};  // of each tile: items, and products of values, before

  // Of each tile in turn: the values of the block before, then the scores of this one.
  __device__ __forceinline__ void multiply(const Item& item) {
    const int last = item.most_blocks() - 1;
#pragma unroll 1
    for (int block = last; block >= -1 && last >= 0; --block) {
      const Ring<Config> values = ring_;
      if (block < last) ring_.advance(Config::kValuePanels);
      const Ring<Config> keys = ring_;
      if (block >= 0) ring_.advance(Config::kKeyPanels);
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) {
        if (block + 1 < item.blocks[t]) multiply_values(t, item, block + 1, block + 1 == last, values);
        if (block >= 0 && block < item.blocks[t]) multiply_keys(t, item, block, keys);
      }
    }
  }

  // Whether no other tile needs a block any more.
  __device__ __forceinline__ static bool is_last_tile(int tile, const Item& item, int block) {
    return tile == 1 || block >= item.blocks[1];
  }

  // scores = q · kᵀ of a block.
  __device__ __forceinline__ void multiply_keys(int tile, const Item& item, int block, Ring<Config> keys) {
    constexpr uint32_t kProduct =
        device::bf16_product(Config::kTileRows, Config::kBlock, device::Contiguous::kAlongSum);
    const uint32_t scores = tensor_memory_ + Config::kScoresColumn + tile * Config::kBlock;
    const auto q = device::factor_along_sum(device::shared_address(shared_.q[tile]));
    if (block == item.blocks[tile] - 1) device::wait(shared_.q_full[tile], tiles_[tile]++ % 2);
#pragma unroll 1
    for (int panel = 0; panel < Config::kKeyPanels; ++panel, keys.advance(1)) {
      const auto k = device::factor_along_sum(device::shared_address(shared_.slots[keys.slot].elements));
      device::wait(shared_.slot_full[keys.slot], keys.parity);
#pragma unroll
      for (int c = 0; c < kChunksOfPanel; ++c) {
        device::start_product(scores, q.at(panel * Config::kPanelBytes + c * kChunkRowBytes), k.at(c * kChunkRowBytes),
                              kProduct, panel > 0 || c > 0);
      }
      if (is_last_tile(tile, item, block)) device::arrive_after_products(shared_.slot_empty[keys.slot]);
    }
    device::arrive_after_products(shared_.scores_full[tile]);
    if (block == 0) device::arrive_after_products(shared_.q_empty[tile]);
  }

  // outputs += weights · v of a block; the item's first block has values to be cleared.
  __device__ __forceinline__ void multiply_values(int tile, const Item& item, int block, bool is_first,
                                                  Ring<Config> values) {
    constexpr uint32_t kProduct =
        device::bf16_product(Config::kTileRows, Config::kDimV, device::Contiguous::kAcrossSum);
    const uint32_t weights = tensor_memory_ + Config::kScoresColumn + tile * Config::kBlock;
    const uint32_t outputs = tensor_memory_ + Config::kOutputsColumn + tile * Config::kDimV;
    const uint32_t parity = blocks_[tile]++ % 2;
    device::wait(shared_.out_ready[tile], parity ^ 1);  // the first one ever finds them ready
    if (is_first) device::wait(shared_.cleared[items_ % 2], items_ / 2 % 2);
#pragma unroll 1
    for (int panel = 0; panel < Config::kValuePanels; ++panel, values.advance(1)) {
      const auto v = device::factor_across_sum(device::shared_address(shared_.slots[values.slot].elements),
                                               Config::kValueBoxBytes);
      device::wait(shared_.slot_full[values.slot], values.parity);
      device::wait(shared_.weights_full[tile][panel], parity);
      device::tensor_fence_after_sync();
#pragma unroll
      for (int c = 0; c < kChunksOfPanel; ++c) {
        device::start_product_of_weights(outputs, weights + (panel * kChunksOfPanel + c) * kChunkWeights,
                                         v.at(c * kChunkColumnBytes), kProduct,
                                         block < item.blocks[tile] - 1 || panel > 0 || c > 0);
      }
      if (is_last_tile(tile, item, block)) device::arrive_after_products(shared_.slot_empty[values.slot]);
    }
    if (block == 0) device::arrive_after_products(shared_.out_full[tile]);
  }
};

}  // namespace jax_flash_mla::mha_forward_sm100
