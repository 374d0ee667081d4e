// Checked conversion of Python arguments. Messages name the argument, what was expected and what came.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include "tree/tree.h"

namespace bavt::py_checks {

namespace py = pybind11;

inline constexpr double kHuge = std::numeric_limits<double>::max();
inline constexpr double kTiny = std::numeric_limits<double>::min();

// What an error shows of an object: the beginning of its repr, and its type where it has none.
inline std::string text_of(py::handle object) {
    constexpr Py_ssize_t kLongest = 80;
    const auto text = py::reinterpret_steal<py::object>(PyObject_Repr(object.ptr()));
    if (!text) {
        if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw py::error_already_set();
        PyErr_Clear();
        return std::string("something of type ") + Py_TYPE(object.ptr())->tp_name + " that cannot be shown";
    }
    const bool is_long = PyUnicode_GET_LENGTH(text.ptr()) > kLongest;
    const auto shown =
        py::reinterpret_steal<py::str>(PyUnicode_Substring(text.ptr(), 0, is_long ? kLongest - 3 : kLongest));
    return shown.attr("encode")("utf-8", "backslashreplace").cast<std::string>() + (is_long ? "..." : "");
}

[[noreturn]] inline void bad_value(const std::string& name, const std::string& expected, const std::string& got) {
    throw py::value_error(name + ": expected " + expected + ", got " + got);
}

[[noreturn]] inline void bad_type(const std::string& name, const std::string& expected, py::handle got) {
    throw py::type_error(name + ": expected " + expected + ", got " + text_of(got));
}

inline bool is_bool(py::handle object) {  // True would pass as 1
    return PyBool_Check(object.ptr()) || std::strncmp(Py_TYPE(object.ptr())->tp_name, "numpy.bool", 10) == 0;
}

inline double number(const char* name, py::handle object, double low, double high, const char* expected) {
    double value;
    if (PyFloat_CheckExact(object.ptr())) {
        value = PyFloat_AS_DOUBLE(object.ptr());
    } else {
        if (is_bool(object) || !PyNumber_Check(object.ptr())) bad_type(name, expected, object);
        value = PyFloat_AsDouble(object.ptr());
        if (value == -1.0 && PyErr_Occurred() != nullptr) {
            PyErr_Clear();
            bad_type(name, expected, object);
        }
    }
    if (!(value >= low && value <= high)) bad_value(name, expected, text_of(object));
    return value;
}

// Any integer as Python's, bool excluded.
inline py::object index_of(const char* name, py::handle object, const char* expected) {
    if (is_bool(object)) bad_type(name, expected, object);
    auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
    if (index) return index;
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw py::error_already_set();
    PyErr_Clear();
    bad_type(name, expected, object);
}

// The same, saturated to int64.
inline int64_t integer(const char* name, py::handle object, const char* expected) {
    const auto value = [](py::handle number) { return PyNumber_AsSsize_t(number.ptr(), nullptr); };
    return PyLong_CheckExact(object.ptr()) ? value(object) : value(index_of(name, object, expected));
}

inline int64_t integer(const char* name, py::handle object, int64_t low, int64_t high, const char* expected) {
    const int64_t value = integer(name, object, expected);
    if (value < low || value > high) bad_value(name, expected, text_of(object));
    return value;
}

// Most nodes of a tree, from what was given of max_nodes and max_bytes.
inline uint32_t node_limit(py::handle max_nodes, py::handle max_bytes, uint32_t otherwise) {
    int64_t limit = otherwise;
    if (!max_nodes.is_none()) {
        limit = integer("max_nodes", max_nodes, 1, kMaxNodes, "an int from 1 to 100,000,000, or None");
    }
    if (!max_bytes.is_none()) {
        const int64_t bytes = integer("max_bytes", max_bytes, Tree::kMaxBytesPerNode, INT64_MAX,
                                      "an int of at least 64, the most that a node can take, or None");
        limit = std::min(limit, bytes / Tree::kMaxBytesPerNode);
    }
    return static_cast<uint32_t>(limit);
}

// 64 bits of any integer, so that hashes serve as seeds.
inline uint64_t seed(py::handle object) {
    return PyLong_AsUnsignedLongLongMask(index_of("seed", object, "an int").ptr());
}

// What lies in a bytes object, for as long as that.
inline std::string_view bytes_of(const char* name, const py::object& object) {
    if (!PyBytes_Check(object.ptr())) bad_type(name, "bytes", object);
    return py::reinterpret_borrow<py::bytes>(object);
}

inline std::string file_path(const py::object& path) {
    auto encoded = py::module_::import("os").attr("fsencode")(path).cast<std::string>();
    if (encoded.find('\0') != std::string::npos) bad_value("path", "a path without a null character", text_of(path));
    return encoded;
}

inline NodeId node(const Tree& tree, py::handle object) {
    const int64_t id = integer("node", object, "a node id");
    if (id < 0 || id >= tree.num_nodes()) {
        throw py::index_error("node: expected an id from 0 to " + std::to_string(tree.num_nodes() - 1) + ", got " +
                              text_of(object));
    }
    return static_cast<NodeId>(id);
}

inline Policy policy(py::handle object) {
    static constexpr std::pair<const char*, Policy> kNames[] = {{"power", Policy::kPower},
                                                                {"best_first", Policy::kBestFirst},
                                                                {"ucb", Policy::kUcb},
                                                                {"uct", Policy::kUct},
                                                                {"puct", Policy::kPuct}};
    const char* expected = "'power', 'best_first', 'ucb', 'uct' or 'puct'";
    if (!PyUnicode_Check(object.ptr())) bad_type("policy", expected, object);
    for (const auto& [name, value] : kNames) {
        if (PyUnicode_CompareWithASCIIString(object.ptr(), name) == 0) return value;
    }
    bad_value("policy", expected, text_of(object));
}

inline SelectArgs select_args(py::handle remaining, py::handle total, py::handle exploration, py::handle max_depth) {
    SelectArgs args;
    args.remaining = number("remaining", remaining, 0.0, kHuge, "a finite number >= 0");
    args.total = number("total", total, kTiny, kHuge, "a finite number > 0");
    args.exploration = number("exploration", exploration, -kHuge, kHuge, "a finite number");
    if (!max_depth.is_none()) {
        const int64_t depth = integer("max_depth", max_depth, 0, INT64_MAX, "an int >= 0 or None");
        args.max_depth = static_cast<uint32_t>(std::min<int64_t>(depth, 0xFFFFFFFF));
    }
    return args;
}

inline Backup reduce(py::handle object) {
    if (PyUnicode_Check(object.ptr())) {
        if (PyUnicode_CompareWithASCIIString(object.ptr(), "mean") == 0) return Backup::kMean;
        if (PyUnicode_CompareWithASCIIString(object.ptr(), "max") == 0) return Backup::kMax;
    }
    bad_value("reduce", "'mean' or 'max'", text_of(object));
}

inline bool is_plain_array(py::handle object) {
    return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
}

// Refuses an array with masked entries, also one in a list of rows: what lies beneath a mask is no number that was given.
inline void require_unmasked(const char* name, py::handle object) {
    if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) {
        for (const py::handle row : py::reinterpret_borrow<py::sequence>(object)) {
            if (py::isinstance<py::array>(row)) require_unmasked(name, row);
        }
    } else if (py::isinstance<py::array>(object) && !is_plain_array(object) &&
               py::module_::import("numpy.ma").attr("is_masked")(object).cast<bool>()) {
        bad_value(name, "an array without masked entries", text_of(object));
    }
}

// A C-contiguous and aligned vector of numbers of T; no copy where it is one already. `count` < 0 takes any length.
template <typename T>
py::array_t<T, py::array::c_style> vector_of(const char* name, py::handle object, py::ssize_t count) {
    constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    using Array = py::array_t<T, py::array::c_style | py::array::forcecast | kAligned>;
    if (py::isinstance<py::array_t<T, py::array::c_style>>(object)) {  // the usual case, at a quarter of the cost
        auto same = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
        const bool aligned = (same.flags() & kAligned) != 0;
        if (aligned && same.ndim() == 1 && (count < 0 || same.shape(0) == count)) return same;
    }
    const bool wants_bool = std::is_same_v<T, bool>;
    auto given = py::array::ensure(object);
    if (!given) PyErr_Clear();
    const char kind = given ? given.dtype().kind() : 'O';
    const bool floating = !std::is_integral_v<T>;
    const bool is_empty = kind == 'f' && given.size() == 0;  // as NumPy reads an empty list
    const bool fits =
        kind == 'i' || kind == 'u' || is_empty || (wants_bool && kind == 'b') || (floating && kind == 'f');
    const std::string length = count < 0 ? std::string("m") : std::to_string(count);
    const std::string expected = std::string(wants_bool  ? "bools"
                                             : !floating ? "ints"
                                                         : "numbers") +
                                 " of shape (" + length + ",)";
    if (!fits) bad_type(name, expected, object);
    if (given.ndim() != 1 || (count >= 0 && given.shape(0) != count)) {
        bad_value(name, expected, "shape " + py::str(given.attr("shape")).cast<std::string>());
    }
    return Array::ensure(given);
}

inline void require_finite(const char* name, const double* values, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        if (!std::isfinite(values[i]))
            bad_value(name, "finite numbers", text_of(py::float_(values[i])) + " at " + std::to_string(i));
    }
}

inline void require_priors(const float* priors, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        if (!(priors[i] >= 0.0f) || !std::isfinite(priors[i])) {
            bad_value("priors", "finite numbers >= 0", text_of(py::float_(priors[i])) + " at " + std::to_string(i));
        }
    }
}

// How pickle takes an object apart: protocols 0 and 1 cannot make one of pybind11's classes again, and end the process.
inline py::object taken_apart(const py::object& self, int protocol) {
    const py::handle base = reinterpret_cast<PyObject*>(&PyBaseObject_Type);
    return base.attr("__reduce_ex__")(self, std::max(protocol, 2));
}

}  // namespace bavt::py_checks
