// What a row's logits weigh: exp((logit / temperature) - most), so that the most likely token weighs 1.
//
// Sums are kept for each block of kBlock tokens, so that a token is looked up in the sums and then in one block.
#pragma once

#include <cstddef>

namespace bavt::sampling {

inline constexpr size_t kBlock = 256;

inline constexpr size_t num_blocks(size_t size) { return (size + kBlock - 1) / kBlock; }

// The largest logit. What is not a number is passed over, and shows in the weights.
float largest(const float* logits, size_t size);

// Fills `weights` with exp(logits[i] / temperature - most): 0 for -infinity, and what is not a number stays so.
void fill_weights(const float* logits, size_t size, float temperature, float most, float* weights);

// The sum of exp(logits[i] - most).
double sum_of_weights(const float* logits, size_t size, float most);

// The sum of each block of weights; returns the sum of all.
double sum_blocks(const float* weights, size_t size, double* sums);

// The sum of a block that begins here, with `size` of the weights left.
double block_sum(const float* weights, size_t size);

// The smallest weight that is kept of those that are in descending order the fewest whose sum reaches `least_sum`, at
// least one and at most `most_kept` of them (all for 0). `scratch` holds `size` floats and is overwritten.
float smallest_kept(const float* weights, size_t size, double least_sum, size_t most_kept, float* scratch);

// Sets weights below `floor` to zero.
void drop_below(float* weights, size_t size, float floor);

}  // namespace bavt::sampling
