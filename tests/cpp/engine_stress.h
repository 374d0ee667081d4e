// What engine_stress.cpp draws its calls and settings from, and an allocator that can be told to fail.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <new>

#include "engine/question.h"
#include "memory/mix.h"

namespace {

thread_local int64_t allocations_left = -1;  // until one fails; -1 for no end

void* allocated(size_t size) {
    if (allocations_left == 0) return nullptr;
    if (allocations_left > 0) --allocations_left;
    return std::malloc(size == 0 ? 1 : size);
}

}  // namespace

void* operator new(size_t size) {
    if (void* memory = allocated(size)) return memory;
    throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocated(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

class Draws {
   public:
    explicit Draws(uint64_t seed) : state_(seed) {}
    uint64_t next() { return bavt::mix64(state_ += 0x9E3779B97F4A7C15ull); }
    uint64_t below(uint64_t limit) { return next() % limit; }
    bool one_in(uint64_t n) { return below(n) == 0; }
    double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
    template <typename T>
    T of(std::initializer_list<T> items) {
        return items.begin()[below(items.size())];
    }

   private:
    uint64_t state_;
};

bavt::SearchOptions random_options(Draws& draws) {
    bavt::SearchOptions o;
    o.policy = draws.of(
        {bavt::Policy::kPower, bavt::Policy::kBestFirst, bavt::Policy::kUcb, bavt::Policy::kUct, bavt::Policy::kPuct});
    o.discount = draws.of({1.0, 0.9});
    o.tried_exponent = draws.of({0.0, 0.5, 2.0});
    o.widening_scale = draws.of({0.5, 1.0, 3.0});
    o.candidates = draws.of({1u, 1u, 2u, 5u});
    o.patience = draws.of({1u, 3u, 10u});
    o.max_nodes = draws.of({3u, 30u, 400u});
    o.max_step_tokens = draws.of<int64_t>({1, 9, 64, bavt::kUnlimited / 3});
    o.max_step_prompt_tokens = draws.of<int64_t>({0, 0, 40});
    o.step_tool_calls = draws.of<int64_t>({0, 1, 2});
    o.max_step_cost = draws.of<int64_t>({0, 0, 1'000'000});
    o.token_price = draws.of<int64_t>({0, 1, 3'333'333, 1'000'000'000});
    o.prompt_token_price = draws.of<int64_t>({0, 999'999});
    if (draws.one_in(2)) o.max_score = {{draws.of<int64_t>({0, 4}), 0, 1, 5000}};
    return o;
}

}  // namespace
