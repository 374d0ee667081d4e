// Binds the exact Countdown solver; checks and converts arguments, no logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <numeric>
#include <string>

#include "countdown/solver.h"
#include "python/checks.h"

namespace py = pybind11;

namespace {

using IntArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// An array of integers of any width as int64: nothing is rounded, and nothing wraps into range. An empty list, which
// NumPy takes for floats, passes.
IntArray integers(const char* name, const py::object& object) {
    bavt::py_checks::require_unmasked(name, object);
    const auto array = py::array::ensure(object);
    if (!array || (array.size() > 0 && array.dtype().kind() != 'i' && array.dtype().kind() != 'u')) {
        PyErr_Clear();
        throw py::type_error(std::string(name) + ": expected an array of integers, got " +
                             (array ? "dtype " + py::str(array.dtype()).cast<std::string>()
                                    : py::repr(py::type::of(object)).cast<std::string>()));
    }
    return IntArray(array);
}

// Counts the numbers of a row before its padding (-1) and checks each.
int checked_count(const int64_t* row, int columns) {
    int count = 0;
    while (count < columns && row[count] != -1) ++count;
    if (count == 0) throw py::value_error("numbers: expected at least one number in every row, got an empty row");
    for (int k = 0; k < columns; ++k) {
        const bool good = k < count ? row[k] >= 0 && row[k] <= bavt::countdown::kMaxValue : row[k] == -1;
        if (!good) {
            throw py::value_error("numbers: expected integers from 0 to 999 with -1 as padding at the end, got " +
                                  std::to_string(row[k]));
        }
    }
    return count;
}

bool reaches(const int64_t* row, int columns, int64_t target) {
    int32_t numbers[bavt::countdown::kMaxNumbers];
    int count = 0;
    for (; count < columns && row[count] != -1; ++count) numbers[count] = static_cast<int32_t>(row[count]);
    if (target < 0 || target > bavt::countdown::kMaxValue) return false;
    return bavt::countdown::solvable(numbers, count, static_cast<int32_t>(target));
}

// The same over fractions, in lowest terms or not.
bool reaches(const int64_t* row, const int64_t* denominators, int columns, int64_t target) {
    bavt::countdown::Fraction numbers[bavt::countdown::kMaxNumbers];
    int count = 0;
    for (; count < columns && row[count] != -1; ++count) {
        const int64_t divisor = std::gcd(row[count], denominators[count]);
        numbers[count] = {static_cast<int32_t>(row[count] / divisor),
                          static_cast<int32_t>(denominators[count] / divisor)};
    }
    if (target < 0 || target > bavt::countdown::kMaxValue) return false;
    return bavt::countdown::solvable(numbers, count, static_cast<int32_t>(target));
}

void check_denominators(const IntArray& denominators, const IntArray& numbers) {
    if (denominators.ndim() != 2 || denominators.shape(0) != numbers.shape(0) ||
        denominators.shape(1) != numbers.shape(1)) {
        throw py::value_error("denominators: expected the shape of numbers");
    }
    const int64_t* values = denominators.data();
    for (py::ssize_t i = 0; i < denominators.size(); ++i) {
        if (values[i] < 1 || values[i] > bavt::countdown::kMaxValue) {
            throw py::value_error("denominators: expected integers from 1 to 999, got " + std::to_string(values[i]));
        }
    }
}

py::array_t<bool> countdown_solvable(const py::object& numbers_object, const py::object& targets_object,
                                     const py::object& denominators_object) {
    const IntArray numbers = integers("numbers", numbers_object);
    const IntArray targets = integers("targets", targets_object);
    if (numbers.ndim() != 2 || numbers.shape(1) < 1 || numbers.shape(1) > bavt::countdown::kMaxNumbers) {
        throw py::value_error("numbers: expected shape (states, n) with 1 <= n <= 6");
    }
    if (targets.ndim() != 1 || targets.shape(0) != numbers.shape(0)) {
        throw py::value_error("targets: expected shape (states,), one target per row of numbers");
    }
    const bool in_fractions = !denominators_object.is_none();
    const IntArray denominators = in_fractions ? integers("denominators", denominators_object) : IntArray();
    if (in_fractions) check_denominators(denominators, numbers);
    const py::ssize_t states = numbers.shape(0);
    const int columns = static_cast<int>(numbers.shape(1));
    py::array_t<bool> result(states);
    const int64_t* rows = numbers.data();
    const int64_t* under = denominators.data();
    const int64_t* target = targets.data();
    bool* out = result.mutable_data();
    for (py::ssize_t i = 0; i < states; ++i) checked_count(rows + i * columns, columns);
    {
        py::gil_scoped_release release;
        for (py::ssize_t i = 0; i < states; ++i) {
            const py::ssize_t at = i * columns;
            out[i] = in_fractions ? reaches(rows + at, under + at, columns, target[i])
                                  : reaches(rows + at, columns, target[i]);
        }
    }
    return result;
}

}  // namespace

void bind_countdown(py::module_& m) {
    m.def("countdown_solvable", &countdown_solvable, py::arg("numbers"), py::arg("targets"),
          py::arg("denominators") = py::none(),
          "Whether each state can reach its target by + - * / over integers 0..999.\n\n"
          "numbers: integers (states, n), n <= 6, padded with -1 at the end of a row; targets: integers (states,).\n"
          "denominators: integers (states, n), 1..999: then numbers are numerators, and a step may leave any fraction\n"
          "whose numerator and denominator are 0..999 in lowest terms.\n"
          "Returns bool (states,). Raises TypeError on arrays that are not of integers, and ValueError on a wrong\n"
          "shape or a number outside 0..999.");
}
