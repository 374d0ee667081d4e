// A fixed set of threads that run one task together: task(0) on the calling thread, task(1..) on the helpers.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace bavt {

// What one of several workers does of a number of items: from the first to before the second.
inline std::pair<size_t, size_t> share_of(size_t items, unsigned worker, unsigned workers) {
    return {items * worker / workers, items * (worker + 1) / workers};
}

class Workers {
   public:
    explicit Workers(unsigned threads) : process_(getpid()) {
        for (unsigned index = 1; index < threads; ++index) helpers_.emplace_back([this, index] { serve(index); });
    }
    ~Workers() {
        if (getpid() != process_) {  // a forked child has the objects of the threads, but not the threads
            for (std::thread& helper : helpers_) helper.detach();
            return;
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    unsigned count() const { return static_cast<unsigned>(helpers_.size()) + 1; }

    // Returns when every part is done; rethrows what a part threw. With `parallel` false, or in a forked child, the
    // parts run one after the other on this thread: what they compute must not depend on it.
    void run(bool parallel, const std::function<void(unsigned)>& task) {
        if (helpers_.empty() || !parallel || getpid() != process_) {
            for (unsigned index = 0; index < count(); ++index) task(index);
            return;
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            error_ = nullptr;
            pending_.store(static_cast<unsigned>(helpers_.size()));
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        guarded(task, 0);
        for (int spin = 0; spin < kSpins && pending_.load() != 0; ++spin) pause();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return pending_.load() == 0; });
        if (error_) std::rethrow_exception(error_);
    }

   private:
    static constexpr int kSpins = 2000;  // some microseconds: waves follow one another closely

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    void guarded(const std::function<void(unsigned)>& task, unsigned index) {
        try {
            task(index);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }

    void serve(unsigned index) {
        uint64_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < kSpins && generation_.load() == seen; ++spin) pause();
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
                seen = generation_.load();
                if (stopping_) return;
            }
            guarded(*task_, index);
            if (pending_.fetch_sub(1) == 1) {
                const std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    pid_t process_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<unsigned> pending_{0};
    const std::function<void(unsigned)>* task_ = nullptr;
    std::exception_ptr error_;
    bool stopping_ = false;
    std::vector<std::thread> helpers_;
};

}  // namespace bavt
