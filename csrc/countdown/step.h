// Reads a step of Countdown over integers: it takes two of the numbers and writes what is left in ascending order.
//
//     10 + 4 = 14 (left: 5 6 14)
//
// Numbers have one to three digits, one space stands between the parts, and blank space may stand around the whole.
// Division is exact, and differences are not negative. The rules in Python stand in tasks/countdown/task.py.
#pragma once

#include <cstdint>
#include <string_view>

namespace bavt::countdown {

struct Step {
    int first;  // the places of the numbers that it takes
    int second;
    char operation;
    int32_t result;
};

// Reads a step from `numbers[0..count)` and returns whether it is legal; `step` is only good if it is. Requires
// 0 <= count <= kMaxNumbers and every number in [0, kMaxValue].
bool read_step(std::string_view text, const int32_t* numbers, int count, Step* step);

}  // namespace bavt::countdown
