// Draws the next token of rows whose logits lie in memory, and writes it into their records.
//
// The same as `Sampler.draw` of generators/sampling.py, which works on any device and is the oracle of its tests. Every
// row is done by itself, so what it draws does not depend on those beside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bavt::sampling {

enum Reason : int64_t { kRunning, kDelimiter, kEnd, kLimit, kExhausted, kBroken };

// What rows have so far, by record; sampling.py says what each column means.
struct Records {
    size_t count;  // records
    size_t width;  // tokens that a record has room for
    size_t tries;  // steps tried before that one has room for

    int64_t* drawn;  // tokens so far
    const int64_t* limit;
    int64_t* state;
    int64_t* reason;
    int64_t* next_token;
    const float* settings;  // (count, 4): temperature, top_p, top_k, min_p
    double* log_probability;
    int64_t* tokens;         // (count, width)
    const double* uniforms;  // (count, width)
    double* probabilities;   // (count, width)
    const int64_t* tried;    // (count, tries, width), -1 behind the end of a step
    const float* rest;       // (count, tries, width): probability of the tokens behind
    bool* alive;             // (count, tries)
    const bool* is_greedy;
    const bool* is_cut;
    const bool* has_tried;
};

struct Tokens {
    size_t size;
    const int32_t* next_state;  // (states, size)
    size_t states;
    int64_t found;         // the state behind a stop string
    const bool* ends;      // (size,): ends the text
    const bool* nameless;  // (size,): never drawn; null where every token may be
};

class Drawer {
   public:
    Drawer(const Records& records, const Tokens& tokens) : records_(records), tokens_(tokens) {}

    // The next token of the row of `record`, unless it has ended. `logits` has `Tokens::size` floats. Requires
    // record < Records::count. Throws std::out_of_range where a column holds what it must not.
    void draw(size_t record, const float* logits);

   private:
    // One of the tried steps that a row has followed so far, and the weight of the token that it goes on with.
    struct Followed {
        size_t attempt;
        size_t token;
        float weight;
    };

    bool weigh(size_t record, const float* logits);
    void cut(const float* settings);
    void take_out_tried(size_t record, size_t place);
    void put_back(size_t record, size_t token);
    size_t pick(double uniform) const;
    void append(size_t record, size_t token, double probability, double log_probability);

    Records records_;
    Tokens tokens_;
    std::vector<float> masked_, weights_, scratch_;
    std::vector<double> sums_;  // of the blocks of weights
    std::vector<Followed> followed_;
    double total_ = 0.0;  // the sum of all weights, and of what is left of them
    double left_ = 0.0;
    double log_sum_ = 0.0;  // of all exp(logit - largest), before anything was cut
    float largest_ = 0.0f;
};

}  // namespace bavt::sampling
