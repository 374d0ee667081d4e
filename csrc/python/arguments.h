// Arguments that are columns of numbers, in whatever form they come.
//
// Lists, tuples and arrays of every common type are read where they lie, into a buffer in this object where they are
// short: a list costs no more than an array, of which a call of a microsecond would notice the difference. What is
// unusual, and all that is wrong, goes through NumPy and the checks of checks.h, which say what was expected.
#pragma once

#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "python/checks.h"

namespace bavt::py_checks {

// A column of T: double and float take integers and floats, int64_t and uint32_t (ids) integers, bool bools and integers.
// Good for as long as the object it was read from.
template <typename T>
class Numbers {
   public:
    Numbers() = default;  // not given: data() is null
    Numbers(const Numbers&) = delete;
    Numbers& operator=(const Numbers&) = delete;

    // One row of `count` numbers; of any length where it is below 0.
    void read(const char* name, py::handle object, py::ssize_t count) {
        if (!take(object) || rows_ >= 0 || (count >= 0 && size_ != count)) keep(checked(name, object, count));
    }

    // `count` numbers in one row, or in so many rows; in one row alone where `rows` is below 0.
    void read_rows(const char* name, py::handle object, py::ssize_t count, py::ssize_t rows) {
        if (take(object) && size_ == count && (rows_ < 0 || rows_ == rows)) return;
        require_unmasked(name, object);
        auto array = py::array::ensure(object);
        if (!array) PyErr_Clear();
        if (array && array.ndim() == 2 && rows > 0) {
            if (array.shape(0) != rows || array.size() != count) {
                const auto expected = py::make_tuple(rows, count / rows);
                bad_value(name, "shape " + text_of(expected), "shape " + text_of(array.attr("shape")));
            }
            array = array.reshape({-1});
        }
        keep(checked(name, array ? py::object(array) : py::reinterpret_borrow<py::object>(object), count));
    }

    // Whether the object is one row, or rows of equal length; if not, or if something else about it is unusual, nothing
    // can be said of it.
    bool take(py::handle object) {
        rows_ = -1;
        if (is_row(object.ptr())) return take_items(object.ptr());
        if (is_plain_array(object)) return take_array(py::reinterpret_borrow<py::array>(object));
        return is_plain_sequence(object) && take_sequence(object);
    }

    const T* data() const { return data_; }
    size_t size() const { return static_cast<size_t>(size_); }
    py::ssize_t rows() const { return rows_; }  // -1 where there is one row that is not in a sequence of rows

   private:
    static constexpr bool kFloating = std::is_floating_point_v<T>;
    static constexpr bool kBool = std::is_same_v<T, bool>;
    static constexpr py::ssize_t kShort = 32;

    using Vector = py::array_t<T, py::array::c_style>;

    static Vector checked(const char* name, py::handle object, py::ssize_t count) {
        require_unmasked(name, object);
        if constexpr (std::is_same_v<T, uint32_t>) {
            return checked_ids(name, object, count);
        } else {
            return vector_of<T>(name, object, count);
        }
    }

    // -1 must not become 4294967295.
    static Vector checked_ids(const char* name, py::handle object, py::ssize_t count) {
        const auto wide = vector_of<int64_t>(name, object, count);
        Vector narrow(wide.shape(0));
        for (py::ssize_t i = 0; i < wide.shape(0); ++i) {
            if (wide.at(i) < 0 || wide.at(i) > UINT32_MAX) {
                throw py::index_error(std::string(name) + ": expected ids >= 0, got " + std::to_string(wide.at(i)) +
                                      " at " + std::to_string(i));
            }
            narrow.mutable_at(i) = static_cast<uint32_t>(wide.at(i));
        }
        return narrow;
    }

    void keep(Vector array) {
        data_ = array.data();
        size_ = array.size();
        rows_ = -1;
        owner_ = std::move(array);
    }

    T* room(py::ssize_t size) {
        T* const to = size <= kShort ? short_ : (long_ = std::unique_ptr<T[]>(new T[static_cast<size_t>(size)])).get();
        data_ = to;
        size_ = size;
        return to;
    }

    // ---- Lists and tuples ----

    bool take_items(PyObject* row) {
        PyObject* const* const items = PySequence_Fast_ITEMS(row);
        const py::ssize_t count = PySequence_Fast_GET_SIZE(row);
        if (count == 0) return false;  // of no type
        if (is_row(items[0])) return take_nested(items, count);
        return copy_items(items, count, room(count));
    }

    static bool is_row(PyObject* object) { return PyList_CheckExact(object) || PyTuple_CheckExact(object); }

    bool take_nested(PyObject* const* rows, py::ssize_t count) {
        const py::ssize_t each = PySequence_Fast_GET_SIZE(rows[0]);
        T* to = room(count * each);
        for (py::ssize_t i = 0; i < count; ++i, to += each) {
            if (!is_row(rows[i]) || PySequence_Fast_GET_SIZE(rows[i]) != each) return false;
            if (!copy_items(PySequence_Fast_ITEMS(rows[i]), each, to)) return false;
        }
        rows_ = count;
        return each > 0;
    }

    static bool copy_items(PyObject* const* items, py::ssize_t count, T* to) {
        for (py::ssize_t i = 0; i < count; ++i) {
            if (!copy_item(items[i], to[i])) return false;
        }
        return true;
    }

    static bool copy_item(PyObject* item, T& to) {
        if constexpr (kFloating) {
            if (PyFloat_Check(item)) return to = static_cast<T>(PyFloat_AS_DOUBLE(item)), true;
        }
        if constexpr (kBool) {
            if (PyBool_Check(item)) return to = item == Py_True, true;
        }
        if (!PyLong_CheckExact(item)) return false;
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(item, &overflow);
        return overflow == 0 && convert(number, to);
    }

    // ---- Arrays ----

    bool take_array(const py::array& array) {
        if (array.ndim() != 1 && array.ndim() != 2) return false;
        const py::ssize_t rows = array.ndim() == 2 ? array.shape(0) : 1, each = array.shape(array.ndim() - 1);
        const py::dtype type = array.dtype();
        const bool aligned = (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
        if (!aligned || type.byteorder() == '>') return false;
        if (array.ndim() == 2) rows_ = rows;
        if (is_same(type.num()) && (array.flags() & py::array::c_style) != 0) {
            data_ = static_cast<const T*>(array.data());
            size_ = rows * each;
            owner_ = array;
            return true;
        }
        const char* from = static_cast<const char*>(array.data());
        T* to = room(rows * each);
        for (py::ssize_t i = 0; i < rows; ++i, from += array.strides(0), to += each) {
            if (!copy_array(type.num(), from, array.strides(array.ndim() - 1), each, to)) return false;
        }
        return true;
    }

    static bool is_same(int type) {
        using Api = py::detail::npy_api;
        if constexpr (std::is_same_v<T, double>) return type == Api::NPY_DOUBLE_;
        if constexpr (std::is_same_v<T, float>) return type == Api::NPY_FLOAT_;
        if constexpr (std::is_same_v<T, int64_t>) return type == Api::NPY_INT64_;
        if constexpr (std::is_same_v<T, uint32_t>) return type == Api::NPY_UINT32_;
        return kBool && type == Api::NPY_BOOL_;
    }

    static bool copy_array(int type, const char* from, py::ssize_t stride, py::ssize_t count, T* to) {
        using Api = py::detail::npy_api;
        switch (type) {
            case Api::NPY_DOUBLE_:
                return copy_as<double>(from, stride, count, to);
            case Api::NPY_FLOAT_:
                return copy_as<float>(from, stride, count, to);
            case Api::NPY_BOOL_:
                return copy_as<bool>(from, stride, count, to);
            case Api::NPY_BYTE_:
                return copy_as<signed char>(from, stride, count, to);
            case Api::NPY_UBYTE_:
                return copy_as<unsigned char>(from, stride, count, to);
            case Api::NPY_SHORT_:
                return copy_as<short>(from, stride, count, to);
            case Api::NPY_USHORT_:
                return copy_as<unsigned short>(from, stride, count, to);
            case Api::NPY_INT_:
                return copy_as<int>(from, stride, count, to);
            case Api::NPY_UINT_:
                return copy_as<unsigned>(from, stride, count, to);
            case Api::NPY_LONG_:
                return copy_as<long>(from, stride, count, to);
            case Api::NPY_ULONG_:
                return copy_as<unsigned long>(from, stride, count, to);
            case Api::NPY_LONGLONG_:
                return copy_as<long long>(from, stride, count, to);
            case Api::NPY_ULONGLONG_:
                return copy_as<unsigned long long>(from, stride, count, to);
            default:
                return false;
        }
    }

    template <typename From>
    static bool copy_as(const char* from, py::ssize_t stride, py::ssize_t count, T* to) {
        constexpr bool kFits = kBool       ? std::is_integral_v<From>
                               : kFloating ? !std::is_same_v<From, bool>
                                           : std::is_integral_v<From> && !std::is_same_v<From, bool>;
        if constexpr (kFits) {
            for (py::ssize_t i = 0; i < count; ++i, from += stride) {
                if (!convert(*reinterpret_cast<const From*>(from), to[i])) return false;
            }
        }
        return kFits;
    }

    template <typename From>
    static bool convert(From from, T& to) {
        if constexpr (kFloating || kBool) {
            to = static_cast<T>(from);
            return true;
        } else {
            to = static_cast<T>(from);
            return static_cast<From>(to) == from && (from < 0) == (to < 0);
        }
    }

    // ---- Other sequences ----

    // A range, a deque and their like, which NumPy would read item by item too. What has a buffer or knows NumPy knows
    // its type.
    static bool is_plain_sequence(py::handle object) {
        static PyObject* const array = PyUnicode_InternFromString("__array__");
        static PyObject* const interface = PyUnicode_InternFromString("__array_interface__");
        PyTypeObject* const type = Py_TYPE(object.ptr());
        return PySequence_Check(object.ptr()) && !PyUnicode_Check(object.ptr()) &&
               !PyObject_CheckBuffer(object.ptr()) && _PyType_Lookup(type, array) == nullptr &&
               _PyType_Lookup(type, interface) == nullptr;
    }

    bool take_sequence(py::handle object) {
        PyObject* const list = PySequence_List(object.ptr());
        if (list == nullptr) {
            PyErr_Clear();
            return false;
        }
        const auto items = py::reinterpret_steal<py::list>(list);
        return take_items(list);
    }

    const T* data_ = nullptr;
    py::ssize_t size_ = 0;
    py::ssize_t rows_ = -1;
    py::object owner_;
    std::unique_ptr<T[]> long_;
    T short_[kShort];
};

}  // namespace bavt::py_checks
