// What one question may spend, has spent and has reserved, in whole numbers.
//
//     resource        unit            limited by
//     tokens          1               Budget.tokens
//     prompt_tokens   1               Budget.prompt_tokens
//     tool_calls      1               Budget.tool_calls
//     cost            1e-12           Budget.cost
//     seconds         clock           Budget.seconds, read by the caller and passed in
//
// For the first four, spent + reserved <= limit holds after every `reserve`: work is reserved before it starts at the most
// that it can take, and settled at what it took. Who takes more of a limited resource than was reserved is charged in full;
// what was too much is kept as the overrun, and from then on nothing fits (`extend` makes room again). Sums saturate at
// 2^63 - 1, but for what is reserved: a sum that was cut could not be given back.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace bavt {

enum Resource : size_t { kTokens, kPromptTokens, kToolCalls, kCost };
inline constexpr size_t kResources = 4;
inline constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
inline constexpr double kNoDeadline = std::numeric_limits<double>::infinity();

inline int64_t saturated_sum(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? kUnlimited : sum;
}

inline int64_t saturated_product(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? kUnlimited : product;
}

// An amount of each resource, none of them negative.
struct Amounts {
    std::array<int64_t, kResources> of{};

    int64_t operator[](size_t resource) const { return of[resource]; }
    int64_t& operator[](size_t resource) { return of[resource]; }

    Amounts& operator+=(const Amounts& other) {
        for (size_t i = 0; i < kResources; ++i) of[i] = saturated_sum(of[i], other.of[i]);
        return *this;
    }
    friend Amounts operator+(Amounts a, const Amounts& b) { return a += b; }
    Amounts times(int64_t factor) const {
        Amounts product;
        for (size_t i = 0; i < kResources; ++i) product[i] = saturated_product(of[i], factor);
        return product;
    }
    bool operator==(const Amounts& other) const { return of == other.of; }
};

struct Limits {
    Amounts amounts{{kUnlimited, kUnlimited, kUnlimited, kUnlimited}};
    double seconds = kNoDeadline;
};

class Account {
   public:
    Account() = default;
    explicit Account(const Limits& limits) : limits_(limits) {}

    const Limits& limits() const { return limits_; }
    const Amounts& spent() const { return spent_; }
    Amounts reserved() const {
        Amounts amounts;
        for (size_t i = 0; i < kResources; ++i) {
            amounts[i] = static_cast<int64_t>(std::min<__int128>(reserved_[i], kUnlimited));
        }
        return amounts;
    }
    const Amounts& overrun() const { return overrun_; }
    double elapsed_s() const { return elapsed_s_; }
    bool overran() const { return overran_; }
    bool out_of_time() const { return elapsed_s_ >= limits_.seconds; }

    // Sets the seconds that have passed, which never fall and stay finite.
    void set_elapsed(double seconds) {
        elapsed_s_ = std::max(elapsed_s_, std::min(seconds, std::numeric_limits<double>::max()));
    }

    // What can still be reserved of a resource; kUnlimited without a limit, 0 after an overrun.
    int64_t left(size_t resource) const {
        if (limits_.amounts[resource] == kUnlimited) return kUnlimited;
        return overran_ ? 0 : unused(resource, true);
    }

    // r = min over the limited resources of what is left / limit, in [0, 1]; 0 after an overrun.
    double remaining_ratio() const { return overran_ ? 0.0 : ratio(true); }

    // Whether some limited resource is wholly spent, or the time is up. What is only reserved may come back.
    bool exhausted() const { return overran_ || ratio(false) == 0.0; }

    // The first resource that cannot hold `asked`, kResources where the time is up, or kResources + 1 where all fits.
    size_t first_short(const Amounts& asked) const {
        for (size_t i = 0; i < kResources; ++i) {
            if (limits_.amounts[i] != kUnlimited && asked[i] > left(i)) return i;
        }
        if (out_of_time()) return kResources;
        return overran_ ? kTokens : kResources + 1;
    }
    bool fits(const Amounts& asked) const { return first_short(asked) == kResources + 1; }

    void reserve(const Amounts& asked) {
        for (size_t i = 0; i < kResources; ++i) reserved_[i] += asked[i];
    }
    void release(const Amounts& claim) {
        for (size_t i = 0; i < kResources; ++i) reserved_[i] -= claim[i];
    }

    // Charges `actual` where `claim` was reserved for it.
    void charge(const Amounts& claim, const Amounts& actual) {
        spent_ += actual;
        for (size_t i = 0; i < kResources; ++i) {
            if (limits_.amounts[i] == kUnlimited || actual[i] <= claim[i]) continue;
            overrun_[i] = saturated_sum(overrun_[i], actual[i] - claim[i]);
            overran_ = true;
        }
    }
    void settle(const Amounts& claim, const Amounts& actual) {
        release(claim);
        charge(claim, actual);
    }

    // Adds to the limits that there are, which stay limits, and lets go on after an overrun.
    void extend(const Amounts& more, double seconds) {
        for (size_t i = 0; i < kResources; ++i) {
            int64_t& limit = limits_.amounts[i];
            if (limit != kUnlimited) limit = std::min(saturated_sum(limit, more[i]), kUnlimited - 1);
        }
        if (limits_.seconds < kNoDeadline) {
            limits_.seconds = std::min(limits_.seconds + seconds, std::numeric_limits<double>::max());
        }
        overran_ = false;
    }

    // As it was saved, with nothing reserved.
    void restore(const Amounts& spent, const Amounts& overrun, bool overran, double elapsed_s) {
        spent_ = spent, overrun_ = overrun, overran_ = overran, elapsed_s_ = elapsed_s;
    }

   private:
    // What is not spent of a limit, and not reserved either where that counts.
    int64_t unused(size_t resource, bool count_reserved) const {
        const __int128 used = __int128{spent_[resource]} + (count_reserved ? reserved_[resource] : 0);
        return static_cast<int64_t>(std::max<__int128>(0, limits_.amounts[resource] - used));
    }

    double ratio(bool count_reserved) const {
        double ratio = 1.0;
        for (size_t i = 0; i < kResources; ++i) {
            const int64_t limit = limits_.amounts[i];
            if (limit == kUnlimited) continue;
            ratio = std::min(ratio, static_cast<double>(unused(i, count_reserved)) / static_cast<double>(limit));
        }
        if (limits_.seconds < kNoDeadline) {
            ratio = std::min(ratio, std::max(0.0, limits_.seconds - elapsed_s_) / limits_.seconds);
        }
        return ratio;
    }

    Limits limits_;
    Amounts spent_, overrun_;
    std::array<__int128, kResources> reserved_{};
    double elapsed_s_ = 0.0;
    bool overran_ = false;
};

}  // namespace bavt
