// Scores of a child from its statistics: pure functions, higher is better. The tree does not know which one runs.
//
// Every expression is evaluated in the order it is written, in float64, without fused multiply-add (the build sets
// -ffp-contract=off), so that ties fall as they do in Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace bavt {

struct ChildStats {
    double value_sum;
    double value;  // the critic's V, used before the first visit
    float prior;
    uint32_t visits;
};

// The drop-in recipe's rule: the bonus is divided by the budget that *remains*.
struct Ucb {
    double bonus;      // c / (remaining + 1e-8)
    double log_total;  // ln(total + 1)

    Ucb(double exploration, double total, double remaining)
        : bonus(exploration / (remaining + 1e-8)), log_total(std::log(total + 1.0)) {}

    void enter(uint32_t /*parent_visits*/) {}

    double operator()(const ChildStats& child) const {
        const double n = static_cast<double>(child.visits) + 1e-8;
        return child.value_sum / n + bonus * std::sqrt(log_total / n);
    }
};

// UCT (Kocsis and Szepesvari 2006): Q + c sqrt(ln N / n); a child without visits comes first.
struct Uct {
    double exploration;
    double log_parent = 0.0;

    void enter(uint32_t parent_visits) { log_parent = parent_visits > 0 ? std::log(parent_visits) : 0.0; }

    double operator()(const ChildStats& child) const {
        if (child.visits == 0) return std::numeric_limits<double>::infinity();
        const double n = child.visits;
        return child.value_sum / n + exploration * std::sqrt(log_parent / n);
    }
};

// PUCT (Silver et al. 2017): Q + c P sqrt(N) / (1 + n); Q of a child without visits is the critic's V.
struct Puct {
    double exploration;
    double root_parent = 0.0;

    void enter(uint32_t parent_visits) { root_parent = std::sqrt(static_cast<double>(parent_visits)); }

    double operator()(const ChildStats& child) const {
        const double q = child.visits == 0 ? child.value : child.value_sum / child.visits;
        return q + exploration * child.prior * root_parent / (1.0 + child.visits);
    }
};

}  // namespace bavt
