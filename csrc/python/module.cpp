// The native module: its classes, and which Python exception each of ours becomes.
#include <pybind11/pybind11.h>

#include <new>
#include <system_error>

#include "tree/snapshot.h"
#include "tree/types.h"

namespace py = pybind11;

void bind_countdown(py::module_& m);
void bind_countdown_task(py::module_& m);
void bind_engine(py::module_& m);
void bind_forest(py::module_& m);
void bind_recipe(py::module_& m);
void bind_records(py::module_& m);
void bind_sampling(py::module_& m);
void bind_tree(py::module_& m);
void bind_waves(py::module_& m);

namespace {

void translate_file_error(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const bavt::FileError& error) {
        errno = error.code().value();
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
    }
}

// Where no class of ours says it better.
void translate_out_of_memory(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
        PyErr_SetString(PyExc_MemoryError,
                        "not enough memory for this call; drop() or delete trees that are done, or make them with a "
                        "smaller max_nodes (or max_bytes)");
    }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Native core: search trees and the exact Countdown solver.";
    py::register_exception<bavt::CapacityError>(m, "CapacityError", PyExc_RuntimeError);
    py::register_exception<bavt::SnapshotError>(m, "SnapshotError", PyExc_ValueError);
    py::register_exception_translator(&translate_file_error);
    py::register_local_exception_translator(&translate_out_of_memory);
    bind_countdown(m);
    bind_countdown_task(m);
    bind_tree(m);
    bind_engine(m);
    bind_forest(m);
    bind_recipe(m);
    bind_records(m);
    bind_sampling(m);
    bind_waves(m);
}
