// Calls of an engine that it must refuse.
#pragma once

#include <vector>

#include "engine/engine.h"
#include "engine_stress.h"

namespace model {

class Refusals {
   public:
    explicit Refusals(bavt::Engine& engine) : engine_(engine) {}

    uint32_t admit_of(bavt::TicketId ticket, uint32_t steps, bool twice = false) {
        const bavt::TicketId tickets[] = {ticket, ticket};
        const uint32_t offsets[] = {0, steps, 2 * steps};
        const std::vector<bavt::StepCost> costs(2 * steps, bavt::StepCost{1, 0, bavt::kNotGiven, bavt::kNotGiven, 0.0});
        const std::vector<int64_t> keys(2 * steps, -1);
        std::vector<uint8_t> is_new(2 * steps);
        uint32_t found[2];
        engine_.admit({tickets, twice ? 2u : 1u, offsets, costs.data(), keys.data()}, 0.0, is_new.data(), found);
        return found[0];
    }
    void grow_of(bavt::TicketId ticket, uint32_t children, bool twice = false) {
        const bavt::TicketId tickets[] = {ticket, ticket};
        const uint32_t offsets[] = {0, children, 2 * children};
        std::vector<double> numbers(2 * children, 0.5);
        const std::vector<uint8_t> flags(2 * children);
        const std::vector<int64_t> least(2 * children);
        bavt::NodeId first[2];
        engine_.grow({tickets, twice ? 2u : 1u, offsets, numbers.data(), nullptr, flags.data(), flags.data(),
                      least.data(), nullptr, false},
                     0.0, first, numbers.data());
    }
    template <typename Call>
    void expect_ticket_error(Call call) {
        try {
            call();
        } catch (const bavt::TicketError&) {
            return;
        }
        require(false, "a ticket that is not open is refused");
    }
    template <typename Call>
    void expect_refusal(Call call) {
        try {
            call();
        } catch (const bavt::TicketError&) {
            require(false, "the ticket is open");
        } catch (const std::invalid_argument&) {
            return;
        }
        require(false, "too many are refused");
    }

   private:
    bavt::Engine& engine_;
};

}  // namespace model
