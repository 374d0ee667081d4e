// One question under search: its account, its tree, the keys it has seen, and the asks that are out.
//
//     ask    -> a node to expand: selected, paid for in advance, counted as a try
//     admit  -> what the steps cost is settled; which of the states they led to are new
//     grow   -> the new states become children: expanded, backed up, and perhaps the question is solved
//     cancel -> an ask that nobody will answer: what it reserved is free again, the try did not happen
//
//     ticket:   (none) --ask--> asked --admit--> admitted --grow--> (none)
//                                 |  \--admit, nothing new--> (none)
//                                 \-------- cancel ---------> (none)
//
// How a node is counted. An ask adds one to the tries of its node (its weight is multiplied by the decay) and one to the
// visits of the node and of all its ancestors, when it is handed out: asks in flight push the next ones elsewhere, and the
// same node may be out several times. If the ask brings new children that visit is taken back, and each child's value is
// backed up with a visit of its own; if it brings steps and nothing new, it stays, a visit without value; if it is
// cancelled, or answered with no step at all, both are undone. A node that was answered with no step is closed: nothing
// new can be proposed there. So is a node after `patience` asks in a row that brought nothing new.
//
// What was tried. Where a generator says how probable its steps were, and `tried_exponent` is above 0, the weight of a node
// is multiplied by (1 - p)^tried_exponent too, p the probability of all steps that came back from it: what has hardly been
// tried goes before what has little left to try. Steps drawn twice count twice.
//
// How a node is chosen. power and best_first choose among all open nodes by weight. ucb, uct and puct walk from the root to
// the child of the highest score, and widen (Coulom 2007; Couetoux et al. 2011): the walk stops at an open node n with
// fewer than C * visits(n)^alpha children and asks in flight, or below which nothing is open.
//
// Whatever the caller reports, nothing is changed by a call that throws. The same holds where memory runs out, but that
// `ask` may have taken random numbers and closed nodes that cannot be paid for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/account.h"
#include "engine/open_tickets.h"
#include "tree/tree.h"

namespace bavt {

// A ticket that is not open, or not in the state that the call needs. Nothing was changed.
struct TicketError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

enum class StopReason : uint8_t {
    kNone,
    kSolved,       // a state that the task verified
    kBudget,       // nothing that could still be asked for fits
    kDeadline,     // the time is up
    kExhausted,    // no node is open
    kMaxNodes,     // the tree is full
    kCancelled,    // by the caller
    kInterrupted,  // by Ctrl-C
    kError,        // task, generator or critic failed
};
inline constexpr uint8_t kStopReasons = 9;

inline constexpr double kMinValue = 1e-6;  // V and weights lie in [kMinValue, 1]: no state is ever quite hopeless
inline constexpr uint32_t kMaxCandidates = 1u << 16, kMaxPatience = 60'000;
inline constexpr int64_t kNotGiven = -1;  // in the columns of `admit`: priced, or counted, by the options

struct SearchOptions {
    Policy policy = Policy::kPower;
    double exploration = 1.0;
    double decay = 0.85;
    double discount = 1.0;
    double tried_exponent = 0.0;
    double widening_scale = 1.0;     // C
    double widening_exponent = 0.5;  // alpha
    uint32_t candidates = 1;
    uint32_t patience = 10;
    uint32_t max_nodes = 1u << 24;
    // The most that one step may take, and what it is charged where it does not say.
    int64_t max_step_tokens = 64;
    int64_t max_step_prompt_tokens = 0;
    int64_t step_tool_calls = 0;
    int64_t max_step_cost = 0;                  // units of 1e-12, on top of what the tokens cost
    int64_t token_price = 0;                    // 1e-18 of the currency a token
    int64_t prompt_token_price = 0;             // likewise
    Amounts max_score;                          // the most that the critic takes for one state
    std::shared_ptr<const DecayPowers> powers;  // of `decay`, or none: every tree makes its own
};

struct Ask {
    NodeId node;
    uint32_t count;   // steps wanted at most
    int64_t limit;    // tokens of a step at most
    uint64_t seed;    // 63 bits, of question, node and the number of asks of this node before
    uint32_t ticket;  // of this question
    uint32_t tried;   // steps that had come back from the node by then
};

// What one step cost. kNotGiven in tool_calls and cost: as the options say.
struct StepCost {
    int64_t tokens, prompt_tokens, tool_calls, cost;
    double seconds;
};

// New states that become children, in the order in which `admit` named them new; those that are left out are refuted.
struct Growth {
    uint32_t count;
    const double* outputs;      // the critic's
    const double* weights;      // what selection uses, or null: V * discount^min_tokens
    const uint8_t* terminal;    // ends a path
    const uint8_t* verified;    // ends it at a right answer: V = 1
    const int64_t* min_tokens;  // at the least to an answer from here
    bool residual;              // outputs are V(child) - V(parent), not V(child)
    Amounts score_cost;         // what the critic took
};

class Question {
   public:
    // Where the root stands; terminal and verified as for a child.
    struct Root {
        double value = 1.0;
        int64_t min_tokens = 0;
        bool terminal = false, verified = false;
    };

    // Questions of one searcher share their options: what lies in one place stays in the cache.
    using Options = std::shared_ptr<const SearchOptions>;
    Question(uint64_t seed, const Limits& limits, Options options, const Root& root);

    // The clock starts at the first `set_time`; readings are seconds of any clock that does not run backwards.
    void set_time(double now_s);
    // The next reading is of another clock: what has passed by then stays.
    void change_clock() { started_ = false; }

    enum class Outcome { kAsked, kWait, kStopped };
    // The next ask; kWait where only an answer that is out can bring one, until one comes (or more budget); kStopped where
    // the question has stopped.
    Outcome ask(Ask* ask);

    // Throws TicketError or std::invalid_argument for what `admit`, `grow` and `cancel` would refuse.
    void require_admissible(uint32_t ticket, uint32_t steps) const;
    void require_growable(uint32_t ticket, uint32_t children) const;
    void require_open(uint32_t ticket) const;

    // keys[i] is the dense number of the state's key, or -1 for a step that is invalid. is_new[i] says whether the state
    // was not seen before; returns how many are. The ticket is closed if there are none.
    // probabilities[i], in [0, 1], is the model's of step i; null where it is not known.
    uint32_t admit(uint32_t ticket, const StepCost* costs, const int64_t* keys, uint32_t steps, uint8_t* is_new,
                   const double* probabilities = nullptr);

    // Returns the first child's id, or kNone without children; values[i] is V of child i.
    NodeId grow(uint32_t ticket, const Growth& growth, double* values);

    // Charges what the ask took although it failed.
    void cancel(uint32_t ticket, const StepCost* costs, uint32_t steps);

    void cancel_all();
    void see_key(int64_t key) { see(key, true); }  // the root's

    void stop(StopReason reason);  // where it has not stopped
    // More of what is limited. A question that stopped for want of it goes on; returns whether it is under way.
    bool extend(const Amounts& more, double seconds);

    const Tree& tree() const { return *tree_; }
    const Account& account() const { return account_; }
    const SearchOptions& options() const { return *options_; }
    StopReason stop_reason() const { return stop_reason_; }
    NodeId solved_node() const { return solved_node_; }
    uint32_t in_flight() const { return static_cast<uint32_t>(tickets_.size()); }
    uint64_t seed() const { return seed_; }
    uint32_t asks() const { return next_ticket_; }
    bool knows_key(int64_t key) const;

    struct Counts {
        uint64_t invalid = 0, duplicate = 0, refuted = 0;
    };
    const Counts& counts() const { return counts_; }

    // From the root's child to the verified state, else to the best one so far (Tree::best_path).
    std::vector<NodeId> best_path() const;

    // The open asks, oldest first, as they were handed out. What is admitted and not grown is not among them.
    std::vector<Ask> open_asks() const;

    // What each ask that is out still reserves, its states' scores with it, oldest first: also those that are admitted.
    struct Claim {
        uint32_t ticket;
        Amounts amounts;
    };
    std::vector<Claim> claims() const;

    // Snapshots (question_snapshot.cpp), with the errors of Tree's. A ticket that is admitted cannot be saved.
    std::string to_bytes() const;
    static std::unique_ptr<Question> from_bytes(const char* data, size_t size);

    size_t memory_bytes() const;  // of everything but the tree

    // Fetch what a call will touch, while other questions of a wave are worked on: the object, then what it points to.
    void prefetch() const {
        for (size_t at = 0; at < sizeof *this; at += 64) __builtin_prefetch(reinterpret_cast<const char*>(this) + at);
    }
    void prefetch_parts() const;
    void prefetch_nodes() const;

   private:
    struct NodeInfo {
        int64_t min_tokens;
        double tried = 0.0;  // probability of the steps that came back, at most 1
        uint32_t asked = 0;  // asks handed out
        uint32_t children = 0;
        uint32_t alive_children = 0;  // below which something is open
        uint32_t in_flight = 0;
        uint32_t told = 0;          // steps that came back
        uint16_t fruitless = 0;     // asks in a row that brought nothing new
        bool unaffordable = false;  // closed because its cheapest finish did not fit
    };
    struct Ticket {
        NodeId node;
        uint32_t count;
        int64_t limit;
        uint64_t seed;
        Amounts claim;        // reserved for the steps
        Amounts score_claim;  // reserved for the critic
        uint32_t tried;       // steps that had come back from the node
        bool counted_try;     // the tries of the node were not at their end
        bool admitted = false;
        std::vector<int64_t> keys;  // of the new states, once admitted
    };

    Question() = default;  // for from_bytes
    Ticket& open(uint32_t ticket, const char* verb, bool admitted);
    const Ticket& open(uint32_t ticket, const char* verb, bool admitted) const;
    NodeId select();
    template <typename Rule>
    NodeId descend(Rule rule) const;
    template <typename Score>
    NodeId best_child(NodeId node, Score score) const;
    bool fit(NodeId node, uint32_t* count, int64_t* limit) const;
    Outcome wait();
    void hand_out(NodeId node, uint32_t count, int64_t limit, Ask* ask);
    Amounts step_claim(int64_t limit) const;
    Amounts charge(const StepCost& cost) const;
    Amounts charge_all(const StepCost* costs, uint32_t steps);
    int64_t price(int64_t tokens, int64_t price) const;
    void stop_for_lack();
    void end(uint32_t ticket, const Ticket& closed, bool fruitless, bool undo_try);
    void close(NodeId node);
    void set_dead(NodeId node);
    bool alive(NodeId node) const { return tree_->flags(node) == 0 || info_[node].alive_children > 0; }
    void count_alive();
    void count_tried(NodeId node, const double* probabilities, uint32_t steps);
    double weight_of(double value, int64_t min_tokens) const;
    void see(int64_t key, bool seen);

    uint64_t seed_ = 0;
    Options options_;
    Account account_;
    std::unique_ptr<Tree> tree_;
    std::vector<NodeInfo> info_;
    std::vector<uint64_t> seen_;  // a bit for each key
    OpenTickets<Ticket> tickets_;
    uint32_t next_ticket_ = 0;
    uint64_t promised_nodes_ = 0;  // children that the open tickets may bring
    Counts counts_;
    NodeId solved_node_ = kNone;
    StopReason stop_reason_ = StopReason::kNone;
    bool unaffordable_ = false;  // some node was closed for want of budget
    bool waiting_ = false;       // until something changes: asked again, it would draw again
    bool started_ = false;
    double start_s_ = 0.0, extra_s_ = 0.0;
};

}  // namespace bavt
