// Scores of a child from its statistics: pure functions, higher is better. The tree does not know which one runs.
//
// Every expression is evaluated in the order it is written, in float64, without fused multiply-add (the build sets
// -ffp-contract=off): ties fall as they do in Python, and reference.py replays every score to the last bit. Logarithms,
// roots and reciprocals of visit counts below VisitTables::kSize come from tables that hold the same float64 numbers.
//
// A score is entered with the parent's visits, then asked for each child. A barrier of -inf keeps a child out; it is 0
// otherwise. It is added where it costs no time, so that the scan of the children needs no branch.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>

namespace bavt {

struct ChildStats {
    double value_sum;
    uint32_t visits;
};

class VisitTables {
   public:
    static constexpr uint32_t kSize = 1 << 15;

    static const VisitTables& shared() {
        static const std::unique_ptr<const VisitTables> tables(new VisitTables);
        return *tables;
    }
    double reciprocal(uint32_t n) const { return n < kSize ? reciprocal_[n] : 1.0 / n; }                       // 1 / n
    double reciprocal_root(uint32_t n) const { return n < kSize ? reciprocal_root_[n] : 1.0 / std::sqrt(n); }  // n^-1/2
    double root_log(uint32_t n) const { return n < kSize ? root_log_[n] : std::sqrt(std::log(n)); }  // sqrt(ln n)

   private:
    VisitTables() {  // entries of n = 0 are finite, so that no NaN arises from them
        reciprocal_root_[0] = 1.0;
        for (uint32_t n = 1; n < kSize; ++n) {
            reciprocal_[n] = 1.0 / n;
            reciprocal_root_[n] = 1.0 / std::sqrt(n);
            root_log_[n] = std::sqrt(std::log(n));
        }
    }
    double reciprocal_[kSize] = {};
    double reciprocal_root_[kSize] = {};
    double root_log_[kSize] = {};
};

// The drop-in recipe's rule: value_sum / (n + 1e-8) + c / (remaining + 1e-8) * sqrt(ln(total + 1) / (n + 1e-8)).
// Its bonus is divided by the budget that *remains*.
struct Ucb {
    static constexpr bool kNeedsPrior = false;
    double bonus;      // c / (remaining + 1e-8)
    double log_total;  // ln(total + 1)

    Ucb(double exploration, double total, double remaining)
        : bonus(exploration / (remaining + 1e-8)), log_total(std::log(total + 1.0)) {}

    void enter(uint32_t /*parent_visits*/) {}

    double operator()(const ChildStats& child, double barrier) const {
        const double n = static_cast<double>(child.visits) + 1e-8;
        return child.value_sum / n + bonus * std::sqrt(log_total / n) + barrier;
    }
};

// UCT (Kocsis and Szepesvari 2006): W / n + c sqrt(ln N / n), as r (W r + c sqrt(ln N)) with r = n^-1/2. A child
// without visits comes first: its W is 0, and infinity takes the place of the bonus.
struct Uct {
    static constexpr bool kNeedsPrior = false;
    double exploration;
    const VisitTables& tables = VisitTables::shared();
    double bonus = 0.0;

    explicit Uct(double c) : exploration(c) {}

    void enter(uint32_t parent_visits) { bonus = exploration * tables.root_log(parent_visits); }

    double operator()(const ChildStats& child, double barrier) const {
        static constexpr double kFirst[2] = {0.0, std::numeric_limits<double>::infinity()};
        const double r = tables.reciprocal_root(child.visits);
        return r * (child.value_sum * r + (bonus + kFirst[child.visits == 0] + barrier));
    }
};

// PUCT (Silver et al. 2017): Q + c P sqrt(N) / (1 + n), with Q = W / n, and the critic's V before the first visit. P is
// the prior given at expansion, or one over the number of the parent's children where none was given.
struct Puct {
    static constexpr bool kNeedsPrior = true;
    double exploration;
    const VisitTables& tables = VisitTables::shared();
    double bonus = 0.0;

    explicit Puct(double c) : exploration(c) {}

    void enter(uint32_t parent_visits) { bonus = exploration * std::sqrt(static_cast<double>(parent_visits)); }

    double operator()(const ChildStats& child, double barrier, double value, double prior) const {
        const double q = child.visits == 0 ? value : child.value_sum * tables.reciprocal(child.visits);
        return q + bonus * prior * tables.reciprocal(child.visits + 1) + barrier;
    }
};

}  // namespace bavt
