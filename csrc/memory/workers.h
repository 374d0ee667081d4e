// A fixed set of threads that share out one job: the calling thread and its helpers.
//
// A job is cut into small pieces. Every worker has a share of them, the same in every job over the same items, so that
// what it touches stays in its cache; a worker that is done with its own takes pieces of the others' shares. Nobody waits
// for a helper that has not begun: the caller does all pieces where none comes, and waits only for those in the middle
// of one.
//
// Helpers cost where the other cores are busy: one that is taken off its core in the middle of a piece is waited for.
// Every job is therefore held against what it would have taken alone. What it took longer is lost time; once more is lost
// than was won lately, the caller works alone for twenty times as long before it asks for help again.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "memory/fork.h"

namespace bavt {

class Workers {
   public:
    // Does the items from the first to before the second.
    using Work = std::function<void(size_t, size_t)>;

    // Throws std::system_error where the system gives no more threads.
    explicit Workers(unsigned threads) : forks_(fork_count()), crew_(std::make_unique<Crew>(threads)) {}
    ~Workers() {
        // In a forked child the threads are gone, but what they waited for still counts them, and may be locked.
        if (fork_count() != forks_) (void)crew_.release();
    }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    unsigned count() const { return static_cast<unsigned>(crew_->shares.size()); }

    // Returns when all of 0 .. items is done, in ranges that are worked on at the same time; `piece` is what is worth a
    // worker's asking for more. What the work comes to must not depend on the ranges: with `parallel` false, in a forked
    // child, or where help does not pay, there is one. Where several ranges throw, the first one's error is rethrown.
    void run(size_t items, size_t piece, bool parallel, const Work& work) {
        if (items == 0) return;
        if (!parallel || items <= piece || count() == 1 || fork_count() != forks_ ||
            Clock::now().time_since_epoch().count() < alone_until()) {
            return work(0, items);
        }
        const Clock::time_point begun = Clock::now();
        crew_->open({&work, items, piece});
        const Taken own = crew_->take_pieces(0);
        crew_->close();
        judge(begun, own.typical() * static_cast<double>(crew_->pieces));
        if (crew_->error) std::rethrow_exception(std::exchange(crew_->error, nullptr));
    }

   private:
    using Clock = std::chrono::steady_clock;
    using Nanoseconds = std::chrono::duration<double, std::nano>;

    static constexpr double kRest = 20.0;    // lost time is at most a twentieth
    static constexpr double kMostWon = 2e5;  // nanoseconds, against small losses: helpers that have to wake up first
    static constexpr double kLongestRest = 1e9;  // nanoseconds: the process may have been stopped for hours
    static constexpr int kSpins = 2000;          // some microseconds: waves follow one another closely
    static constexpr uint64_t kOpen = uint64_t{1} << 16;
    static constexpr uint64_t kJob = uint64_t{1} << 17;

    struct Job {
        const Work* work;
        size_t items, piece;
    };

    // The pieces that one worker did.
    struct Taken {
        size_t pieces = 0;
        Clock::duration all{0}, longest{0};

        void add(Clock::duration time) {
            ++pieces;
            all += time;
            longest = std::max(longest, time);
        }
        // Nanoseconds of a piece; without the longest, in which the worker may have been taken off its core. 0 where
        // there is none: it was off its core all the time.
        double typical() const {
            if (pieces < 2) return Nanoseconds(all).count();
            return Nanoseconds(all - longest).count() / static_cast<double>(pieces - 1);
        }
    };

    struct alignas(64) Share {
        std::atomic<size_t> next{0};
        size_t end = 0;
    };

    // What the helpers and the caller share.
    struct Crew {
        explicit Crew(unsigned threads) : shares(threads) {
            try {
                for (unsigned index = 1; index < threads; ++index) {
                    helpers.emplace_back([this, index] { serve(index); });
                }
            } catch (...) {
                stop();
                throw;
            }
        }
        ~Crew() { stop(); }

        void stop() {
            {
                const std::lock_guard<std::mutex> lock(mutex);
                stopping = true;
            }
            wake.notify_all();
            for (std::thread& helper : helpers) helper.join();
            helpers.clear();
        }

        void open(const Job& next_job) {
            {
                const std::lock_guard<std::mutex> lock(mutex);
                job = next_job;
                pieces = (job.items + job.piece - 1) / job.piece;
                for (size_t i = 0; i < shares.size(); ++i) {
                    shares[i].next.store(pieces * i / shares.size(), std::memory_order_relaxed);
                    shares[i].end = pieces * (i + 1) / shares.size();
                }
                state.store((state.load() / kJob + 1) * kJob + kOpen);
            }
            wake.notify_all();
        }

        // Nobody joins any more; returns when those who did are done.
        void close() {
            state.fetch_and(~kOpen);
            for (int spin = 0; spin < kSpins && busy_helpers() != 0; ++spin) pause();
            if (busy_helpers() == 0) return;
            std::unique_lock<std::mutex> lock(mutex);
            done.wait(lock, [this] { return busy_helpers() == 0; });
        }

        uint64_t busy_helpers() const { return state.load() % kOpen; }

        // Those of its own share first, then what is left of the others'.
        Taken take_pieces(unsigned worker) {
            Taken taken;
            Clock::time_point since = Clock::now();
            for (size_t i = 0; i < shares.size(); ++i) {
                Share& share = shares[(worker + i) % shares.size()];
                for (size_t piece; (piece = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
                    do_piece(piece);
                    const Clock::time_point now = Clock::now();
                    taken.add(now - since);
                    since = now;
                }
            }
            return taken;
        }

        void do_piece(size_t piece) {
            const size_t begin = piece * job.piece;
            try {
                (*job.work)(begin, std::min(begin + job.piece, job.items));
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex);
                if (error && failed_piece < piece) return;
                failed_piece = piece;
                error = std::current_exception();
            }
        }

        // Counts this thread as one that works on the open job, if there is one that is not `last`.
        bool join(uint64_t& last) {
            uint64_t now = state.load();
            do {
                if ((now & kOpen) == 0 || now / kJob == last) return false;
            } while (!state.compare_exchange_weak(now, now + 1));
            last = now / kJob;
            return true;
        }

        void serve(unsigned index) {
            for (uint64_t last = 0;;) {
                bool joined = false;
                for (int spin = 0; spin < kSpins && !(joined = join(last)); ++spin) pause();
                if (!joined) {
                    std::unique_lock<std::mutex> lock(mutex);
                    wake.wait(lock, [&] { return stopping || (joined = join(last)); });
                    if (!joined) return;
                }
                take_pieces(index);
                const uint64_t left = state.fetch_sub(1) - 1;
                if (left % kJob == 0) {  // closed, and this was the last one
                    const std::lock_guard<std::mutex> lock(mutex);
                    done.notify_one();
                }
            }
        }

        std::mutex mutex;
        std::condition_variable wake, done;
        std::atomic<uint64_t> state{0};  // number of the job | whether it may be joined | helpers that did
        Job job{};
        size_t pieces = 0;
        std::vector<Share> shares;
        std::exception_ptr error;
        size_t failed_piece = 0;
        bool stopping = false;
        std::vector<std::thread> helpers;
    };

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // These two are of all workers of the process: whether cores are free is no matter of one of them.
    static std::atomic<double>& won_lately() {
        static std::atomic<double> nanoseconds{0.0};
        return nanoseconds;
    }
    static std::atomic<Clock::rep>& alone_until() {
        static std::atomic<Clock::rep> until{Clock::time_point::min().time_since_epoch().count()};
        return until;
    }

    // `alone`: the nanoseconds that the job would have taken the caller, by the time of its own pieces.
    static void judge(Clock::time_point begun, double alone) {
        const Clock::time_point now = Clock::now();
        const double won = alone - Nanoseconds(now - begun).count();
        const double balance = std::min(won_lately().load(std::memory_order_relaxed) + won, kMostWon);
        won_lately().store(std::max(balance, 0.0), std::memory_order_relaxed);
        if (balance >= 0.0) return;
        const std::chrono::nanoseconds rest(static_cast<int64_t>(std::min(-kRest * balance, kLongestRest)));
        alone_until() = (now + rest).time_since_epoch().count();
    }

    const unsigned forks_;
    std::unique_ptr<Crew> crew_;
};

}  // namespace bavt
