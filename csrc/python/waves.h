// The loops of a wave, as waves_rounds.cpp puts them together. See waves.cpp.
#pragma once

#include <vector>

#include "python/waves_admit.h"

namespace bavt::waves {

// Who values new states, what reads the time, and whether values are differences to the parent's.
struct Scoring {
    PyObject* critic;
    PyObject* clock;
    bool residual;
};

double read(PyObject* clock);

// The requests of asks; `unseen` by the garbage collector until the caller tracks them.
py::object requests_of(const Questions& questions, const std::vector<WaveAsk>& asks, bool unseen = false);

// Asks as Python has them: in columns, and last the slots of questions that have stopped.
py::object asked(const std::vector<WaveAsk>& asks, py::object requests, const std::vector<Slot>& stopped);

// Answers into the trees, and values: None, or what Python has to look at (`wave_tell` in bavt_fast/_core.pyi). `now_s` is
// the last reading of the clock; `next`, where it is not null, what may be asked for already.
py::object tell(Engine& engine, py::handle searches, const Asks& asks, py::handle given, const Scoring& by,
                double* now_s, NextAsks* next = nullptr);

// Waves one after the other, as long as nothing is unusual: `wave_rounds` and `wave_stream` there.
py::object rounds(Engine& engine, py::handle searches, PyObject* propose, size_t wave, const Scoring& by);
py::object stream(Engine& engine, py::handle searches, py::handle out, PyObject* submit, PyObject* collect, size_t wave,
                  const Scoring& by);

}  // namespace bavt::waves
