// Scores of a child from its statistics: pure functions, higher is better. The tree does not know which one runs.
//
// Every expression is evaluated in the order it is written, in float64, without fused multiply-add (the build sets
// -ffp-contract=off): ties fall as they do in Python, and reference.py replays every score to the last bit. Logarithms,
// roots and reciprocals of visit counts below VisitTables::kSize come from tables that hold the same float64 numbers.
//
// A rule knows what holds for the whole descent; below a node it gives a score, which rates each child. The score of a
// child that is shut is -inf or NaN, without a branch, so that the scan of the children needs none. Inlining is asked for
// where the optimiser of the linker decides against it: a call per child takes half as long again.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

namespace bavt {

struct ChildStats {
    double value_sum;
    uint32_t visits;
    bool shut;  // whether a descent must not enter
};

inline constexpr double kBarrier[2] = {0.0, -std::numeric_limits<double>::infinity()};  // by ChildStats::shut

class VisitTables {
   public:
    static constexpr uint32_t kSize = 1 << 15;

    static const VisitTables& shared() {
        static const std::unique_ptr<const VisitTables> tables(new VisitTables);
        return *tables;
    }
    // 1 / n and sqrt(ln n).
    [[gnu::always_inline]] double reciprocal(uint32_t n) const { return n < kSize ? reciprocal_[n] : 1.0 / n; }
    [[gnu::always_inline]] double root_log(uint32_t n) const {
        return n < kSize ? root_log_[n] : std::sqrt(std::log(n));
    }
    // What UCT needs of a child's visits: n^-1/2, and what is added to the bonus, which is infinity before the first visit
    // and -inf for a child that is shut.
    [[gnu::always_inline]] std::pair<double, double> root_and_extra(uint32_t n, bool shut) const {
        if (n >= kSize) return {1.0 / std::sqrt(n), kBarrier[shut]};
        const uint32_t entry = shut ? kSize : n;
        return {reciprocal_root_[entry], extra_[entry]};
    }

   private:
    VisitTables() {
        reciprocal_root_[0] = reciprocal_root_[kSize] = 1.0;
        extra_[0] = std::numeric_limits<double>::infinity();
        extra_[kSize] = kBarrier[1];
        for (uint32_t n = 1; n < kSize; ++n) {
            reciprocal_root_[n] = 1.0 / std::sqrt(n);
            reciprocal_[n] = 1.0 / n;
            root_log_[n] = std::sqrt(std::log(n));
        }
    }
    double reciprocal_root_[kSize + 1];
    double extra_[kSize + 1] = {};
    double reciprocal_[kSize] = {};
    double root_log_[kSize] = {};
};

// The recipe's rule: value_sum / (n + 1e-8) + c / (remaining + 1e-8) * sqrt(ln(total + 1) / (n + 1e-8)).
// Its bonus is divided by the budget that *remains*.
struct Ucb {
    double bonus;      // c / (remaining + 1e-8)
    double log_total;  // ln(total + 1)

    Ucb(double exploration, double total, double remaining)
        : bonus(exploration / (remaining + 1e-8)), log_total(std::log(total + 1.0)) {}

    struct Score {
        static constexpr bool kNeedsPrior = false;
        double bonus, log_total;

        [[gnu::always_inline]] double operator()(const ChildStats& child) const {
            const double n = static_cast<double>(child.visits) + 1e-8;
            return child.value_sum / n + bonus * std::sqrt(log_total / n) + kBarrier[child.shut];
        }
    };
    Score below(uint32_t /*parent_visits*/) const { return {bonus, log_total}; }
};

// UCT (Kocsis and Szepesvari 2006): W / n + c sqrt(ln N / n), as r (W r + c sqrt(ln N)) with r = n^-1/2. A child
// without visits comes first: its W is 0, and infinity takes the place of the bonus.
struct Uct {
    double exploration;
    const VisitTables* tables = &VisitTables::shared();

    explicit Uct(double c) : exploration(c) {}

    struct Score {
        static constexpr bool kNeedsPrior = false;
        double bonus;
        const VisitTables* tables;

        [[gnu::always_inline]] double operator()(const ChildStats& child) const {
            const auto [r, extra] = tables->root_and_extra(child.visits, child.shut);
            return r * (child.value_sum * r + (bonus + extra));
        }
    };
    Score below(uint32_t parent_visits) const { return {exploration * tables->root_log(parent_visits), tables}; }
};

// PUCT (Silver et al. 2017): Q + c P sqrt(N) / (1 + n), with Q = W / n, and the critic's V before the first visit. P is
// the prior given at expansion, or one over the number of the parent's children where none was given.
struct Puct {
    double exploration;
    const VisitTables* tables = &VisitTables::shared();

    explicit Puct(double c) : exploration(c) {}

    struct Score {
        static constexpr bool kNeedsPrior = true;
        double bonus;
        const VisitTables* tables;

        [[gnu::always_inline]] double operator()(const ChildStats& child, double value, double prior) const {
            const double q = child.visits == 0 ? value : child.value_sum * tables->reciprocal(child.visits);
            return q + bonus * prior * tables->reciprocal(child.visits + 1) + kBarrier[child.shut];
        }
    };
    Score below(uint32_t parent_visits) const {
        return {exploration * std::sqrt(static_cast<double>(parent_visits)), tables};
    }
};

}  // namespace bavt
