// Binds the drawing of tokens: arrays that share the memory of torch's tensors, checked once when they are handed over.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "python/checks.h"
#include "sampling/draw.h"

namespace py = pybind11;

namespace {

using bavt::py_checks::bad_value;
using bavt::sampling::Drawer;
using bavt::sampling::Records;
using bavt::sampling::Tokens;

std::string shape_text(const std::vector<py::ssize_t>& shape) {
    std::string text = "(";
    for (py::ssize_t size : shape) text += (size < 0 ? "any" : std::to_string(size)) + ", ";
    return text + ")";
}

// An array as it lies in memory: of this type and shape (-1 for any), contiguous; nothing is converted or copied.
template <typename T>
py::array_t<T> checked(const std::string& name, const py::handle& object, const std::vector<py::ssize_t>& shape) {
    using Array = py::array_t<T, py::array::c_style>;
    if (!py::isinstance<Array>(object)) {
        const std::string type = py::str(py::dtype::of<T>()).cast<std::string>();
        throw py::type_error(name + ": expected a contiguous array of " + type + ", got " +
                             py::str(py::type::of(object)).cast<std::string>());
    }
    const auto array = py::reinterpret_borrow<py::array_t<T>>(object);
    const std::vector<py::ssize_t> got(array.shape(), array.shape() + array.ndim());
    bool fits = got.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == got[i];
    if (!fits) bad_value(name, "an array of shape " + shape_text(shape), shape_text(got));
    return array;
}

// Keeps the arrays alive whose memory a `Drawer` works in.
class TokenDrawer {
   public:
    TokenDrawer(const py::dict& columns, const py::object& next_state, int64_t found, const py::object& ends,
                const py::object& nameless)
        : drawer_(records_of(columns), tokens_of(next_state, found, ends, nameless)) {}

    void draw(const py::object& records, const py::object& logits) {
        const auto numbers = checked<int64_t>("records", records, {-1});
        const auto rows = checked<float>("logits", logits, {numbers.shape(0), static_cast<py::ssize_t>(size_)});
        for (py::ssize_t i = 0; i < numbers.shape(0); ++i) {
            if (numbers.at(i) < 0 || numbers.at(i) >= static_cast<int64_t>(count_)) {
                bad_value("records", "numbers below " + std::to_string(count_), std::to_string(numbers.at(i)));
            }
        }
        const int64_t* const number = numbers.data();
        const float* const row = rows.data();
        const auto count = static_cast<size_t>(numbers.shape(0));
        py::gil_scoped_release release;
        for (size_t i = 0; i < count; ++i) drawer_.draw(static_cast<size_t>(number[i]), row + i * size_);
    }

   private:
    template <typename T>
    T* column(const py::dict& columns, const char* name, const std::vector<py::ssize_t>& shape) {
        if (!columns.contains(name)) throw py::key_error(name);
        auto array = checked<T>(name, columns[name], shape);
        T* const data = array.mutable_data();
        kept_.push_back(std::move(array));
        return data;
    }

    Records records_of(const py::dict& columns) {
        const auto tried = checked<int64_t>("tried", columns["tried"], {-1, -1, -1});
        const py::ssize_t count = tried.shape(0), tries = tried.shape(1), width = tried.shape(2);
        count_ = static_cast<size_t>(count);
        Records r{};
        r.count = count_;
        r.tries = static_cast<size_t>(tries);
        r.width = static_cast<size_t>(width);
        r.drawn = column<int64_t>(columns, "count", {count});
        r.limit = column<int64_t>(columns, "limit", {count});
        r.state = column<int64_t>(columns, "state", {count});
        r.reason = column<int64_t>(columns, "reason", {count});
        r.next_token = column<int64_t>(columns, "next_token", {count});
        r.settings = column<float>(columns, "settings", {count, 4});
        r.log_probability = column<double>(columns, "log_probability", {count});
        r.tokens = column<int64_t>(columns, "tokens", {count, width});
        r.uniforms = column<double>(columns, "uniforms", {count, width});
        r.probabilities = column<double>(columns, "probabilities", {count, width});
        r.tried = column<int64_t>(columns, "tried", {count, tries, width});
        r.rest = column<float>(columns, "rest", {count, tries, width});
        r.alive = column<bool>(columns, "alive", {count, tries});
        r.is_greedy = column<bool>(columns, "is_greedy", {count});
        r.is_cut = column<bool>(columns, "is_cut", {count});
        r.has_tried = column<bool>(columns, "has_tried", {count});
        return r;
    }

    Tokens tokens_of(const py::object& next_state, int64_t found, const py::object& ends, const py::object& nameless) {
        const auto table = checked<int32_t>("next_state", next_state, {-1, -1});
        const py::ssize_t size = table.shape(1);
        if (size == 0) bad_value("next_state", "at least one token", "none");
        size_ = static_cast<size_t>(size);
        Tokens t{};
        t.size = size_;
        t.next_state = table.data();
        t.states = static_cast<size_t>(table.shape(0));
        t.found = found;
        kept_.push_back(table);
        const auto are_ends = checked<bool>("ends", ends, {size});
        t.ends = are_ends.data();
        kept_.push_back(are_ends);
        if (!nameless.is_none()) {
            const auto hidden = checked<bool>("nameless", nameless, {size});
            t.nameless = hidden.data();
            kept_.push_back(hidden);
        }
        return t;
    }

    std::vector<py::array> kept_;
    size_t count_ = 0;
    size_t size_ = 0;
    Drawer drawer_;
};

}  // namespace

void bind_sampling(py::module_& m) {
    py::class_<TokenDrawer>(m, "TokenDrawer",
                            "Draws the next tokens of rows on the CPU into columns that share memory with tensors.")
        .def(py::init<const py::dict&, const py::object&, int64_t, const py::object&, const py::object&>(),
             py::arg("columns"), py::arg("next_state"), py::arg("found"), py::arg("ends"), py::arg("nameless"),
             "columns: the records' columns by name, as generators/host_sampling.py has them.\n"
             "next_state: int32 (states, vocabulary); found: the state behind a stop string.\n"
             "ends: bool (vocabulary,), tokens that end the text; nameless: bool (vocabulary,), tokens that are never\n"
             "drawn, or None.")
        .def("draw", &TokenDrawer::draw, py::arg("records"), py::arg("logits"),
             "The next token of each record that goes on: int64 (rows,), float32 (rows, vocabulary).");
}
