#include "sampling/draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "sampling/weights.h"

namespace bavt::sampling {
namespace {

constexpr double kNewMass = 1e-6;     // of the probability: where less is left, nothing new is drawn
constexpr double kSpentShare = 1e-6;  // of a token's probability, below which what is left of it is rounding

// The first place whose running sum is above a target, which is taken down by what lies before; the last one that has a
// weight where rounding leads past it.
template <typename T>
size_t first_above(const T* weights, size_t size, double& target) {
    double sum = 0.0, before_last = 0.0;
    size_t last = 0;
    for (size_t i = 0; i < size; ++i) {
        if (!(weights[i] > 0)) continue;
        before_last = sum;
        last = i;
        sum += weights[i];
        if (sum > target) break;
    }
    target -= before_last;
    return last;
}

}  // namespace

void Drawer::draw(size_t record, const float* logits) {
    const size_t place = static_cast<size_t>(records_.drawn[record]);
    if (records_.reason[record] != kRunning) return;
    if (place >= records_.width) throw std::out_of_range("a record is full");
    if (tokens_.nameless != nullptr) {
        masked_.resize(tokens_.size);
        for (size_t i = 0; i < tokens_.size; ++i) {
            masked_[i] = tokens_.nameless[i] ? -std::numeric_limits<float>::infinity() : logits[i];
        }
        logits = masked_.data();
    }
    if (!weigh(record, logits)) {
        records_.reason[record] = kBroken;
        return;
    }
    followed_.clear();
    left_ = total_;
    if (records_.has_tried[record]) take_out_tried(record, place);
    if (left_ < kNewMass * total_) {
        records_.reason[record] = kExhausted;
        return;
    }
    const size_t token = pick(records_.uniforms[record * records_.width + place]);
    if (records_.has_tried[record]) put_back(record, token);
    const double probability = weights_[token] / total_;
    append(record, token, probability, static_cast<double>(logits[token]) - largest_ - log_sum_);
}

// The weights by the record's settings, and their sums. False where the logits are not numbers.
bool Drawer::weigh(size_t record, const float* logits) {
    const size_t size = tokens_.size;
    const float* const settings = records_.settings + 4 * record;
    weights_.resize(size);
    sums_.resize(num_blocks(size));
    largest_ = largest(logits, size);
    const float most = largest_ / settings[0];
    if (!std::isfinite(most)) return false;
    fill_weights(logits, size, settings[0], most, weights_.data());
    total_ = sum_blocks(weights_.data(), size, sums_.data());
    if (!std::isfinite(total_)) return false;
    log_sum_ = std::log(settings[0] == 1.0f ? total_ : sum_of_weights(logits, size, largest_));
    if (records_.is_greedy[record]) {
        const size_t best = static_cast<size_t>(std::find(logits, logits + size, largest_) - logits);
        std::fill(weights_.begin(), weights_.end(), 0.0f);
        std::fill(sums_.begin(), sums_.end(), 0.0);
        weights_[best] = 1.0f;
        sums_[best / kBlock] = total_ = 1.0;
    } else if (records_.is_cut[record]) {
        cut(settings);
    }
    return true;
}

// Only the most likely tokens: at most top_k (and those that are as likely), no more than it takes to reach top_p, none
// below min_p times the most likely one, which weighs 1 and stays whatever the settings are.
void Drawer::cut(const float* settings) {
    float floor = settings[3] < 1.0f ? settings[3] : 1.0f;
    const auto size = static_cast<float>(tokens_.size);
    const auto top_k = settings[2] >= 1.0f ? static_cast<size_t>(std::min(settings[2], size)) : size_t{0};
    if (settings[1] < 1.0f || top_k > 0) {
        scratch_.resize(tokens_.size);
        const double least = settings[1] < 1.0f ? settings[1] * total_ : std::numeric_limits<double>::infinity();
        floor = std::max(floor, smallest_kept(weights_.data(), tokens_.size, least, top_k, scratch_.data()));
    }
    drop_below(weights_.data(), tokens_.size, floor);
    total_ = sum_blocks(weights_.data(), tokens_.size, sums_.data());
}

// Takes out of each token's weight what belongs to steps tried before that run through it.
void Drawer::take_out_tried(size_t record, size_t place) {
    const size_t first = record * records_.tries;
    for (size_t attempt = 0; attempt < records_.tries; ++attempt) {
        const int64_t token = records_.tried[(first + attempt) * records_.width + place];
        if (!records_.alive[first + attempt] || token < 0 || static_cast<size_t>(token) >= tokens_.size) continue;
        followed_.push_back({attempt, static_cast<size_t>(token), weights_[static_cast<size_t>(token)]});
    }
    if (followed_.empty()) return;
    for (const Followed& one : followed_) {
        weights_[one.token] -= one.weight * records_.rest[(first + one.attempt) * records_.width + place];
    }
    for (const Followed& one : followed_) {
        if (weights_[one.token] < kSpentShare * one.weight) weights_[one.token] = 0.0f;
    }
    for (const Followed& one : followed_) {
        const size_t block = one.token / kBlock;
        sums_[block] = block_sum(weights_.data() + block * kBlock, tokens_.size - block * kBlock);
    }
    left_ = 0.0;
    for (double sum : sums_) left_ += sum;
}

// The weights as they were, and which steps still run through what was drawn.
void Drawer::put_back(size_t record, size_t token) {
    bool* const alive = records_.alive + record * records_.tries;
    std::fill_n(alive, records_.tries, false);
    for (const Followed& one : followed_) {
        weights_[one.token] = one.weight;
        alive[one.attempt] = one.token == token;
    }
}

size_t Drawer::pick(double uniform) const {
    double target = uniform * left_;
    const size_t block = first_above(sums_.data(), sums_.size(), target);
    const size_t begin = block * kBlock;
    return begin + first_above(weights_.data() + begin, std::min(kBlock, tokens_.size - begin), target);
}

void Drawer::append(size_t record, size_t token, double probability, double log_probability) {
    const auto state = static_cast<size_t>(records_.state[record]);
    if (state >= tokens_.states) throw std::out_of_range("a record's state is unknown");
    const size_t at = record * records_.width + static_cast<size_t>(records_.drawn[record]);
    records_.tokens[at] = records_.next_token[record] = static_cast<int64_t>(token);
    records_.probabilities[at] = probability;
    records_.log_probability[record] += log_probability;
    records_.drawn[record] += 1;
    records_.state[record] = tokens_.next_state[state * tokens_.size + token];
    if (tokens_.ends[token]) {
        records_.reason[record] = kEnd;
    } else if (records_.state[record] == tokens_.found) {
        records_.reason[record] = kDelimiter;
    } else if (records_.drawn[record] >= records_.limit[record]) {
        records_.reason[record] = kLimit;
    }
}

}  // namespace bavt::sampling
