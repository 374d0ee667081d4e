#include "sampling/weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

// The build is for any x86-64, whose vectors hold four floats. Loops over a vocabulary are compiled for wider ones too,
// and the loader takes those that the processor has. Sanitizers cannot be called that early.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__has_attribute) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if __has_attribute(target_clones)
#define BAVT_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef BAVT_WIDE
#define BAVT_WIDE
#endif

namespace bavt::sampling {
namespace {

constexpr float kLeastExponent = -87.0f;  // below, exp leaves the normal numbers: the weight is 0
constexpr size_t kLanes = 16;

// exp(x) for x <= 0 to two units in the last place: 2^n times a polynomial (Cephes, expf). Without a branch, so that
// loops over it become vectors.
inline __attribute__((always_inline)) float exp_of(float x) {
    constexpr float kLog2E = 1.44269504088896341f, kRound = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const float clamped = x < kLeastExponent ? kLeastExponent : x;        // NaN stays NaN
    const float shifted = clamped * kLog2E + kRound;
    const float n = shifted - kRound;
    const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits << 23) + 0x3f800000u;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return x < kLeastExponent ? 0.0f : y * power;
}

inline __attribute__((always_inline)) double sum_of(const float* values, size_t size) {
    float lanes[kLanes] = {};
    size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        for (size_t k = 0; k < kLanes; ++k) lanes[k] += values[i + k];
    }
    double sum = 0.0;
    for (float lane : lanes) sum += lane;
    for (; i < size; ++i) sum += values[i];
    return sum;
}

}  // namespace

BAVT_WIDE float largest(const float* logits, size_t size) {
    float lanes[kLanes];
    std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
    size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        for (size_t k = 0; k < kLanes; ++k) lanes[k] = logits[i + k] > lanes[k] ? logits[i + k] : lanes[k];
    }
    for (; i < size; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
    return *std::max_element(lanes, lanes + kLanes);
}

BAVT_WIDE void fill_weights(const float* logits, size_t size, float temperature, float most, float* weights) {
    for (size_t i = 0; i < size; ++i) weights[i] = exp_of(logits[i] / temperature - most);
}

BAVT_WIDE double sum_of_weights(const float* logits, size_t size, float most) {
    float block[kBlock];
    double sum = 0.0;
    for (size_t begin = 0; begin < size; begin += kBlock) {
        const size_t count = std::min(kBlock, size - begin);
        for (size_t i = 0; i < count; ++i) block[i] = exp_of(logits[begin + i] - most);
        sum += sum_of(block, count);
    }
    return sum;
}

BAVT_WIDE double sum_blocks(const float* weights, size_t size, double* sums) {
    double all = 0.0;
    for (size_t block = 0; block * kBlock < size; ++block) {
        sums[block] = sum_of(weights + block * kBlock, std::min(kBlock, size - block * kBlock));
        all += sums[block];
    }
    return all;
}

double block_sum(const float* weights, size_t size) { return sum_of(weights, std::min(kBlock, size)); }

// A quickselect by sum and by count at once: of the weights that may still be the one, those above a pivot are taken
// together or become all that is looked at.
float smallest_kept(const float* weights, size_t size, double least_sum, size_t most_kept, float* scratch) {
    float* begin = scratch;
    float* end = std::copy_if(weights, weights + size, scratch, [](float weight) { return weight > 0.0f; });
    if (begin == end) return 0.0f;
    size_t left = most_kept == 0 ? size : most_kept;
    double missing = std::max(least_sum, std::numeric_limits<double>::min());  // else it may be reached by none
    while (true) {
        const float a = *begin, b = begin[(end - begin) / 2], c = end[-1];
        const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
        float* const above = std::partition(begin, end, [pivot](float weight) { return weight > pivot; });
        double sum = 0.0;
        for (const float* at = begin; at != above; ++at) sum += *at;
        if (sum >= missing || static_cast<size_t>(above - begin) >= left) {
            end = above;
            continue;
        }
        left -= static_cast<size_t>(above - begin);
        missing -= sum;
        float* const below = std::partition(above, end, [pivot](float weight) { return weight == pivot; });
        const auto ties = static_cast<size_t>(below - above);
        if (below == end || ties >= left || static_cast<double>(ties) * pivot >= missing) return pivot;
        left -= ties;
        missing -= static_cast<double>(ties) * pivot;
        begin = below;
    }
}

BAVT_WIDE void drop_below(float* weights, size_t size, float floor) {
    for (size_t i = 0; i < size; ++i) weights[i] = weights[i] < floor ? 0.0f : weights[i];
}

}  // namespace bavt::sampling
