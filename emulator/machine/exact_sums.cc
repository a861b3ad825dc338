#include "emulator/machine/exact_sums.h"

#include <array>
#include <cmath>
#include <limits>

#include "emulator/machine/numerics.h"
#include "emulator/machine/wide_vectors.h"

namespace emulator {
namespace {

constexpr int kMostAddends = 64;

// A sum as doubles that do not overlap, the least first.
class Expansion {
 public:
  void add(double value) {
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
      const double sum = value + parts_[i];
      const double part = sum - value;
      const double error = (value - (sum - part)) + (parts_[i] - part);
      if (error != 0) parts_[kept++] = error;
      value = sum;
    }
    parts_[kept++] = value;
    count_ = kept;
  }

  double to_odd() const {
    // What is below the second part only says whether there is something, and the second part says so already, unless
    // the first two sum up exactly.
    double sum = parts_[count_ - 1];
    for (int i = count_ - 2; i >= 0; --i) {
      const double next = sum + parts_[i];
      if (next - sum != parts_[i] || i == 0) return add_to_odd(sum, parts_[i]);
      sum = next;
    }
    return sum;
  }

 private:
  std::array<double, kMostAddends> parts_;
  int count_ = 0;
};

double exact_sum(const double* a, const double* b, size_t stride, int k, double before) {
  Expansion sum;
  sum.add(before);
  for (int i = 0; i < k; ++i) sum.add(a[i] * b[size_t(i) * stride]);
  return sum.to_odd();
}

}  // namespace

EMULATOR_AVX2_IF_THERE
void add_products(const double* a, const double* b, size_t stride, int k, double (&d)[kSumsAtOnce]) {
  double sum[kSumsAtOnce], lost[kSumsAtOnce] = {};
  for (int j = 0; j < kSumsAtOnce; ++j) sum[j] = d[j];
  for (int i = 0; i < k; ++i) {
    const double factor = a[i];
    const double* const row = b + size_t(i) * stride;
    for (int j = 0; j < kSumsAtOnce; ++j) {
      const double product = factor * row[j];
      const double next = sum[j] + product;
      const double part = next - sum[j];
      lost[j] += std::fabs((sum[j] - (next - part)) + (product - part));
      sum[j] = next;
    }
  }
  for (int j = 0; j < kSumsAtOnce; ++j) {
    // Nearly always nothing is lost in double. It is NaN where the sum is not finite.
    d[j] = lost[j] > 0 ? exact_sum(a, b + j, stride, k, d[j]) : sum[j];
  }
}

}  // namespace emulator
