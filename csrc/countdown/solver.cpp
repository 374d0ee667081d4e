#include "countdown/solver.h"

#include <algorithm>
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

}  // namespace

bool solvable(const int32_t* numbers, int count, int32_t target) {
    if (target < 0 || target > kMaxValue) return false;
    if (count == 1) return numbers[0] == target;
    if (count == 2) return pair_reaches(numbers[0], numbers[1], target);
    int32_t rest[kMaxNumbers];
    for (int i = 0; i < count; ++i) {
        for (int j = i + 1; j < count; ++j) {
            int kept = 0;
            for (int k = 0; k < count; ++k) {
                if (k != i && k != j) rest[kept++] = numbers[k];
            }
            int32_t results[4];
            const int options = combine(numbers[i], numbers[j], results);
            for (int option = 0; option < options; ++option) {
                rest[kept] = results[option];
                if (solvable(rest, kept + 1, target)) return true;
            }
        }
    }
    return false;
}

}  // namespace bavt::countdown
