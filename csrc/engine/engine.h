// Many questions worked on together: whole waves of asks in columns, in three calls.
//
//     ask(limit)  hands out up to `limit` asks, at most `leaves` of one question at a time. Questions take turns; one that
//                 has nothing to ask for until an answer comes back is passed by, one that has stopped is reported once,
//                 and one that waits starts (its clock too) when those that have started leave room.
//     admit       see question.h, for a wave; every pair is checked before anything changes
//     grow
//     cancel
//
// A ticket is (question's slot << 32) | the question's own number of the ask. Calls from several threads take turns.
// What a question does depends on nothing but its own answers, as long as it has one ask out at a time (leaves = 1).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/question.h"
#include "engine/slot_queue.h"

namespace bavt {

using Slot = uint32_t;
using TicketId = uint64_t;

inline Slot slot_of(TicketId ticket) { return static_cast<Slot>(ticket >> 32); }
inline uint32_t number_of(TicketId ticket) { return static_cast<uint32_t>(ticket); }

struct WaveAsk {
    Slot slot;
    TicketId ticket;
    Ask ask;
};

// Steps of a wave: those of ticket i are at offsets[i] .. offsets[i + 1].
struct WaveSteps {
    const TicketId* tickets;
    size_t size;
    const uint32_t* offsets;
    const StepCost* costs;
    const int64_t* keys;
    const double* probabilities = nullptr;  // of the steps, or null
};

struct WaveGrowth {
    const TicketId* tickets;
    size_t size;
    const uint32_t* offsets;
    const double* outputs;
    const double* weights;  // or null
    const uint8_t* terminal;
    const uint8_t* verified;
    const int64_t* min_tokens;
    const Amounts* score_costs;  // of each ticket, or null: nothing
    bool residual;
};

class Engine {
   public:
    static constexpr size_t kMaxQuestions = 1u << 24;

    explicit Engine(uint32_t leaves) : leaves_(leaves) {}

    // Slots are numbered from 0 and reused once they are removed.
    Slot add(std::shared_ptr<Question> question);
    void remove(Slot slot);  // its tickets are good for nothing from now on
    std::shared_ptr<Question> question(Slot slot);

    // Appends to `asks`, and to `stopped` the slots of questions that have stopped since the last call. Where memory runs out,
    // asks that were handed out before are out all the same (Question::open_asks).
    void ask(size_t limit, double now_s, std::vector<WaveAsk>* asks, std::vector<Slot>* stopped);

    // is_new[i] for step i; found[i]: the new states of ticket i.
    void admit(const WaveSteps& wave, double now_s, uint8_t* is_new, uint32_t* found);
    // first[i]: the first child of ticket i, or kNone; values[i]: V of child i.
    void grow(const WaveGrowth& wave, double now_s, NodeId* first, double* values);
    // `grow`, and then what `ask` would hand out at that time of questions that have started, up to `limit`. With leaves = 1
    // each question is asked as soon as it has grown, while it is in the cache: the order is the same. Where it throws,
    // asks that it appended are out.
    void grow_and_ask(const WaveGrowth& wave, double now_s, NodeId* first, double* values, size_t limit,
                      std::vector<WaveAsk>* asks);
    void cancel(TicketId ticket, const StepCost* costs, uint32_t steps);

    void cancel_all(Slot slot);
    void stop(Slot slot, StopReason reason);
    void extend(Slot slot, const Amounts& more, double seconds);  // puts it back to work where it can go on

    // Runs `use` on a question while no other call runs.
    template <typename Use>
    auto with_question(Slot slot, Use use) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return use(*at(slot).question);
    }

   private:
    struct Entry {
        std::shared_ptr<Question> question;
        bool started = false;
        bool queued = false;    // in ready_ or waiting_
        bool reported = false;  // that it has stopped
    };

    Entry& at(Slot slot);
    Question& of(TicketId ticket);
    void require_distinct(const TicketId* tickets, size_t size, const char* verb);
    void fetch_ahead(const TicketId* tickets, size_t size, size_t at);
    void require_growable(const WaveGrowth& wave);
    void grow_one(const WaveGrowth& wave, size_t i, double now_s, NodeId* first, double* values);
    void ask_first(SlotQueue& queue, double now_s, std::vector<WaveAsk>* asks, std::vector<Slot>* stopped);
    void answered(Slot slot);  // it may have more to ask for, or have stopped
    void report(Slot slot);
    void unqueue(Slot slot);

    std::mutex mutex_;
    uint32_t leaves_;
    std::vector<Entry> entries_;
    std::vector<Slot> free_;
    // With room for all slots, each of which is in them once at most.
    SlotQueue ready_;    // started, with room for an ask
    SlotQueue waiting_;  // not started
    std::vector<Slot> stopped_;
};

}  // namespace bavt
