#include "countdown/solver.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace bavt::countdown {
namespace {

// Writes the legal results of combining a and b to `results` and returns how many there are (at most 4, no repeats needed).
int combine(int32_t a, int32_t b, int32_t* results) {
    if (a < b) std::swap(a, b);
    int count = 0;
    if (a + b <= kMaxValue) results[count++] = a + b;
    results[count++] = a - b;
    if (a * b <= kMaxValue) results[count++] = a * b;
    if (b > 1 && a % b == 0) results[count++] = a / b;  // a / 1 repeats a * 1
    return count;
}

bool pair_reaches(int32_t a, int32_t b, int32_t target) {
    if (a < b) std::swap(a, b);
    return a + b == target || a - b == target || a * b == target || (b > 0 && a == b * target);
}

// Puts numerator / denominator in lowest terms behind the results, if both are small enough then.
void put(int32_t numerator, int32_t denominator, Fraction* results, int* count) {
    const int32_t divisor = std::gcd(numerator, denominator);
    const Fraction result{numerator / divisor, denominator / divisor};
    if (result.numerator <= kMaxValue && result.denominator <= kMaxValue) results[(*count)++] = result;
}

// As for integers; at most 5. Products of two values up to kMaxValue, and sums of two of those, fit.
int combine(Fraction a, Fraction b, Fraction* results) {
    int count = 0;
    const int32_t left = a.numerator * b.denominator;
    const int32_t right = b.numerator * a.denominator;
    const int32_t under = a.denominator * b.denominator;
    put(left + right, under, results, &count);
    put(std::max(left, right) - std::min(left, right), under, results, &count);
    put(a.numerator * b.numerator, under, results, &count);
    if (right > 0) put(left, right, results, &count);
    if (left > 0) put(right, left, results, &count);
    return count;
}

// Whether some two numbers can be combined so that those that are left reach the target.
template <typename Number, int kMostResults>
bool some_step_reaches(const Number* numbers, int count, int32_t target) {
    Number rest[kMaxNumbers];
    for (int i = 0; i < count; ++i) {
        for (int j = i + 1; j < count; ++j) {
            int kept = 0;
            for (int k = 0; k < count; ++k) {
                if (k != i && k != j) rest[kept++] = numbers[k];
            }
            Number results[kMostResults];
            const int options = combine(numbers[i], numbers[j], results);
            for (int option = 0; option < options; ++option) {
                rest[kept] = results[option];
                if (solvable(rest, kept + 1, target)) return true;
            }
        }
    }
    return false;
}

}  // namespace

bool solvable(const int32_t* numbers, int count, int32_t target) {
    if (target < 0 || target > kMaxValue) return false;
    if (count == 1) return numbers[0] == target;
    if (count == 2) return pair_reaches(numbers[0], numbers[1], target);
    return some_step_reaches<int32_t, 4>(numbers, count, target);
}

bool solvable(const Fraction* numbers, int count, int32_t target) {
    if (target < 0 || target > kMaxValue) return false;
    if (count == 1) return numbers[0].numerator == target && numbers[0].denominator == 1;
    return some_step_reaches<Fraction, 5>(numbers, count, target);
}

}  // namespace bavt::countdown
