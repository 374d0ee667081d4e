#include "engine/engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace bavt {
namespace {

constexpr size_t kAhead = 3;  // questions that memory is fetched ahead of the work on them

}  // namespace

Engine::Entry& Engine::at(Slot slot) {
    if (slot < entries_.size() && entries_[slot].question) return entries_[slot];
    throw std::out_of_range("question: " + std::to_string(slot) +
                            " is not a question of this engine; it was removed or never added");
}

Slot Engine::add(std::shared_ptr<Question> question) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) {
        if (entries_.size() == kMaxQuestions) {
            throw CapacityError("add: an engine holds at most " + std::to_string(kMaxQuestions) +
                                " questions; remove those that are done");
        }
        entries_.emplace_back();
        free_.push_back(static_cast<Slot>(entries_.size() - 1));
    }
    stopped_.reserve(entries_.capacity());
    ready_.make_room(entries_.size()), waiting_.make_room(entries_.size());
    const Slot slot = free_.back();
    free_.pop_back();
    entries_[slot].question = std::move(question);
    if (entries_[slot].question->stop_reason() != StopReason::kNone) {
        report(slot);
    } else if (entries_[slot].question->in_flight() < leaves_) {  // else when an ask that is out already is answered
        waiting_.push(slot);
        entries_[slot].queued = true;
    }
    return slot;
}

void Engine::remove(Slot slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = at(slot);
    free_.push_back(slot);
    unqueue(slot);
    stopped_.erase(std::remove(stopped_.begin(), stopped_.end(), slot), stopped_.end());
    entry = Entry{};
}

std::shared_ptr<Question> Engine::question(Slot slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return at(slot).question;
}

// ---- Handing out ---------------------------------------------------------------------------------------------------

void Engine::ask(size_t limit, double now_s, std::vector<WaveAsk>* asks, std::vector<Slot>* stopped) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t full = asks->size() + limit;
    while (asks->size() < full) {
        SlotQueue& queue = ready_.size() > 0 ? ready_ : waiting_;
        if (queue.size() == 0) break;
        if (queue.size() > 3 * kAhead) entries_[queue[3 * kAhead]].question->prefetch();
        if (queue.size() > 2 * kAhead) entries_[queue[2 * kAhead]].question->prefetch_parts();
        if (queue.size() > kAhead) entries_[queue[kAhead]].question->prefetch_nodes();
        ask_first(queue, now_s, asks, &stopped_);
    }
    stopped->insert(stopped->end(), stopped_.begin(), stopped_.end());
    stopped_.clear();
}

// Asks the first question of a queue.
void Engine::ask_first(SlotQueue& queue, double now_s, std::vector<WaveAsk>* asks, std::vector<Slot>* stopped) {
    const Slot slot = queue[0];
    Entry& entry = entries_[slot];
    entry.question->set_time(now_s);
    asks->push_back({slot, 0, {}});  // before the ask: it may throw
    WaveAsk& out = asks->back();
    const Question::Outcome outcome = entry.question->ask(&out.ask);
    out.ticket = TicketId{slot} << 32 | out.ask.ticket;
    queue.pop();
    entry.started = true;
    entry.queued = outcome == Question::Outcome::kAsked && entry.question->in_flight() < leaves_;
    if (outcome != Question::Outcome::kAsked) asks->pop_back();
    if (entry.queued) ready_.push(slot);
    if (outcome == Question::Outcome::kStopped && !std::exchange(entry.reported, true)) stopped->push_back(slot);
}

void Engine::answered(Slot slot) {
    Entry& entry = entries_[slot];
    if (entry.question->stop_reason() != StopReason::kNone) {
        report(slot);
    } else if (!entry.queued && entry.question->in_flight() < leaves_) {
        entry.queued = entry.started = true;
        ready_.push(slot);
    }
}

void Engine::report(Slot slot) {
    if (entries_[slot].reported) return;
    entries_[slot].reported = true;
    stopped_.push_back(slot);
}

void Engine::unqueue(Slot slot) {
    Entry& entry = entries_[slot];
    if (!entry.queued) return;
    (entry.started ? ready_ : waiting_).remove(slot);
    entry.queued = false;
}

// ---- Answers -------------------------------------------------------------------------------------------------------

Question& Engine::of(TicketId ticket) {
    const Slot slot = slot_of(ticket);
    if (slot < entries_.size() && entries_[slot].question) return *entries_[slot].question;
    throw TicketError("tickets: expected a ticket of this engine, got " + std::to_string(ticket) +
                      ", whose question was removed or never added");
}

void Engine::require_distinct(const TicketId* tickets, size_t size, const char* verb) {
    const auto falls = [](TicketId a, TicketId b) { return b <= a; };
    if (std::adjacent_find(tickets, tickets + size, falls) == tickets + size) return;  // as they were handed out
    std::vector<TicketId> sorted(tickets, tickets + size);
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice == sorted.end()) return;
    throw TicketError(std::string(verb) + ": expected each ticket once, got " + std::to_string(*twice) + " twice");
}

// A wave over thousands of questions finds little of them in the cache.
void Engine::fetch_ahead(const TicketId* tickets, size_t size, size_t at) {
    if (at + 3 * kAhead < size) of(tickets[at + 3 * kAhead]).prefetch();
    if (at + 2 * kAhead < size) of(tickets[at + 2 * kAhead]).prefetch_parts();
    if (at + kAhead < size) of(tickets[at + kAhead]).prefetch_nodes();
}

void Engine::admit(const WaveSteps& wave, double now_s, uint8_t* is_new, uint32_t* found) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_distinct(wave.tickets, wave.size, "admit");
    for (size_t i = 0; i < wave.size; ++i) {
        if (i + kAhead < wave.size) of(wave.tickets[i + kAhead]).prefetch();
        of(wave.tickets[i]).require_admissible(number_of(wave.tickets[i]), wave.offsets[i + 1] - wave.offsets[i]);
    }
    for (size_t i = 0; i < wave.size; ++i) {
        const uint32_t begin = wave.offsets[i], steps = wave.offsets[i + 1] - begin;
        fetch_ahead(wave.tickets, wave.size, i);
        Question& question = of(wave.tickets[i]);
        question.set_time(now_s);
        found[i] = question.admit(number_of(wave.tickets[i]), wave.costs + begin, wave.keys + begin, steps,
                                  is_new + begin, wave.probabilities == nullptr ? nullptr : wave.probabilities + begin);
        answered(slot_of(wave.tickets[i]));
    }
}

void Engine::require_growable(const WaveGrowth& wave) {
    require_distinct(wave.tickets, wave.size, "grow");
    for (size_t i = 0; i < wave.size; ++i) {
        if (i + kAhead < wave.size) of(wave.tickets[i + kAhead]).prefetch();
        of(wave.tickets[i]).require_growable(number_of(wave.tickets[i]), wave.offsets[i + 1] - wave.offsets[i]);
    }
}

void Engine::grow_one(const WaveGrowth& wave, size_t i, double now_s, NodeId* first, double* values) {
    const uint32_t begin = wave.offsets[i];
    const Growth growth{wave.offsets[i + 1] - begin,
                        wave.outputs + begin,
                        wave.weights == nullptr ? nullptr : wave.weights + begin,
                        wave.terminal + begin,
                        wave.verified + begin,
                        wave.min_tokens + begin,
                        wave.residual,
                        wave.score_costs == nullptr ? Amounts{} : wave.score_costs[i]};
    fetch_ahead(wave.tickets, wave.size, i);
    Question& question = of(wave.tickets[i]);
    question.set_time(now_s);
    first[i] = question.grow(number_of(wave.tickets[i]), growth, values + begin);
    answered(slot_of(wave.tickets[i]));
}

void Engine::grow(const WaveGrowth& wave, double now_s, NodeId* first, double* values) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_growable(wave);
    for (size_t i = 0; i < wave.size; ++i) grow_one(wave, i, now_s, first, values);
}

void Engine::grow_and_ask(const WaveGrowth& wave, double now_s, NodeId* first, double* values, size_t limit,
                          std::vector<WaveAsk>* asks) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_growable(wave);
    const size_t full = asks->size() + (leaves_ == 1 ? limit : 0);
    std::vector<Slot> stopped;  // those that stop as they are asked come after those that stop as they grow
    stopped.reserve(std::min(limit, entries_.size()));
    for (size_t i = 0; i < wave.size; ++i) {
        grow_one(wave, i, now_s, first, values);
        if (ready_.size() > 0 && asks->size() < full) ask_first(ready_, now_s, asks, &stopped);
    }
    stopped_.insert(stopped_.end(), stopped.begin(), stopped.end());
}

void Engine::cancel(TicketId ticket, const StepCost* costs, uint32_t steps) {
    const std::lock_guard<std::mutex> lock(mutex_);
    of(ticket).cancel(number_of(ticket), costs, steps);
    answered(slot_of(ticket));
}

void Engine::cancel_all(Slot slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    at(slot).question->cancel_all();
    answered(slot);
}

// ---- Stopping and going on -----------------------------------------------------------------------------------------

void Engine::stop(Slot slot, StopReason reason) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = at(slot);
    entry.question->stop(reason);
    unqueue(slot);
    answered(slot);
}

void Engine::extend(Slot slot, const Amounts& more, double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = at(slot);
    if (!entry.question->extend(more, seconds)) return;
    if (entry.reported) stopped_.erase(std::remove(stopped_.begin(), stopped_.end(), slot), stopped_.end());
    entry.reported = false;
    answered(slot);
}

}  // namespace bavt
