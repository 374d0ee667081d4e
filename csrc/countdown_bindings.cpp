// Binds the exact Countdown solver; checks and converts arguments, no logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "countdown.h"

namespace py = pybind11;

namespace {

using IntArray = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// Counts the numbers of a row before its padding (-1) and checks each.
int checked_count(const int32_t* row, int columns) {
    int count = 0;
    while (count < columns && row[count] != -1) ++count;
    if (count == 0) throw py::value_error("numbers: expected at least one number in every row, got an empty row");
    for (int k = 0; k < columns; ++k) {
        const bool padding = k >= count && row[k] == -1;
        if (!padding && (row[k] < 0 || row[k] > bavt::countdown::kMaxValue)) {
            throw py::value_error("numbers: expected integers from 0 to 999 with -1 as padding at the end, got " +
                                  std::to_string(row[k]));
        }
    }
    return count;
}

py::array_t<bool> countdown_solvable(const IntArray& numbers, const IntArray& targets) {
    if (numbers.ndim() != 2 || numbers.shape(1) < 1 || numbers.shape(1) > bavt::countdown::kMaxNumbers) {
        throw py::value_error("numbers: expected shape (states, n) with 1 <= n <= 6");
    }
    if (targets.ndim() != 1 || targets.shape(0) != numbers.shape(0)) {
        throw py::value_error("targets: expected shape (states,), one target per row of numbers");
    }
    const py::ssize_t states = numbers.shape(0);
    const int columns = static_cast<int>(numbers.shape(1));
    py::array_t<bool> result(states);
    const int32_t* rows = numbers.data();
    const int32_t* target = targets.data();
    bool* out = result.mutable_data();
    for (py::ssize_t i = 0; i < states; ++i) checked_count(rows + i * columns, columns);
    {
        py::gil_scoped_release release;
        for (py::ssize_t i = 0; i < states; ++i) {
            const int32_t* row = rows + i * columns;
            int count = 0;
            while (count < columns && row[count] != -1) ++count;
            out[i] = bavt::countdown::solvable(row, count, target[i]);
        }
    }
    return result;
}

}  // namespace

void bind_countdown(py::module_& m) {
    m.def("countdown_solvable", &countdown_solvable, py::arg("numbers"), py::arg("targets"),
          "Whether each state can reach its target by + - * / over integers 0..999.\n\n"
          "numbers: int32 (states, n), n <= 6, padded with -1 at the end of a row; targets: int32 (states,).\n"
          "Returns bool (states,). Raises ValueError on a wrong shape or a number outside 0..999.");
}
