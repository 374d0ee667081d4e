#include "countdown/step.h"

#include <algorithm>

#include "countdown/solver.h"

namespace bavt::countdown {
namespace {

class Reader {
   public:
    explicit Reader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    bool is_at_end() const { return at_ == end_; }

    bool take(std::string_view word) {
        if (static_cast<size_t>(end_ - at_) < word.size() || !std::equal(word.begin(), word.end(), at_)) return false;
        at_ += word.size();
        return true;
    }

    // Of at most three digits; of more the rest is left, and nothing of a step begins with a digit.
    bool take_number(int32_t* number) {
        const char* begin = at_;
        int32_t value = 0;
        while (at_ < end_ && at_ < begin + 3 && *at_ >= '0' && *at_ <= '9') value = 10 * value + (*at_++ - '0');
        *number = value;
        return at_ > begin;
    }

    bool take_operation(char* operation) {
        if (at_ == end_ || std::string_view("+-*/").find(*at_) == std::string_view::npos) return false;
        *operation = *at_++;
        return true;
    }

    void skip_blank() {
        while (at_ < end_ && std::string_view(" \t\n\r\f\v").find(*at_) != std::string_view::npos) ++at_;
    }

   private:
    const char* at_;
    const char* end_;
};

// The first place but `but` where the number stands, or -1.
int place_of(int32_t number, const int32_t* numbers, int count, int but) {
    for (int place = 0; place < count; ++place) {
        if (place != but && numbers[place] == number) return place;
    }
    return -1;
}

bool equals(int32_t a, char operation, int32_t b, int32_t result) {
    switch (operation) {
        case '+':
            return a + b == result;
        case '-':
            return a - b == result;
        case '*':
            return a * b == result;
        default:
            return b > 0 && a == b * result;
    }
}

// Whether the text goes on with all numbers that are left after a step, ascending.
bool lists_what_is_left(Reader* text, const int32_t* numbers, int count, const Step& step) {
    int32_t left[kMaxNumbers];
    int size = 0;
    for (int place = 0; place < count; ++place) {
        if (place != step.first && place != step.second) left[size++] = numbers[place];
    }
    left[size++] = step.result;
    std::sort(left, left + size);
    for (int i = 0; i < size; ++i) {
        int32_t number;
        if ((i > 0 && !text->take(" ")) || !text->take_number(&number) || number != left[i]) return false;
    }
    return true;
}

}  // namespace

bool read_step(std::string_view text, const int32_t* numbers, int count, Step* step) {
    Reader reader(text);
    int32_t a, b;
    reader.skip_blank();
    if (!reader.take_number(&a) || !reader.take(" ") || !reader.take_operation(&step->operation)) return false;
    if (!reader.take(" ") || !reader.take_number(&b) || !reader.take(" = ")) return false;
    if (!reader.take_number(&step->result) || !reader.take(" (left: ")) return false;
    step->first = place_of(a, numbers, count, -1);
    step->second = place_of(b, numbers, count, step->first);
    if (step->first < 0 || step->second < 0 || !equals(a, step->operation, b, step->result)) return false;
    if (!lists_what_is_left(&reader, numbers, count, *step) || !reader.take(")")) return false;
    reader.skip_blank();
    return reader.is_at_end();
}

}  // namespace bavt::countdown
