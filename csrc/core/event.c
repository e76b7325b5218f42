#include "event.h"

#include <string.h>

/* What is left to read. */
struct cursor {
    const char *at, *end;
};

/* A JSON string between its quotes. */
struct text {
    struct osb_slice raw;
    bool has_escapes;
};

static const char *const type_names[] = {
    [OSB_EVENT_UNTYPED] = "",
    [OSB_EVENT_INIT] = "init",
    [OSB_EVENT_STDOUT] = "stdout",
    [OSB_EVENT_STDERR] = "stderr",
    [OSB_EVENT_RESULT] = "result",
    [OSB_EVENT_ERROR] = "error",
    [OSB_EVENT_STATUS] = "status",
    [OSB_EVENT_COUNT] = "execution_count",
    [OSB_EVENT_COMPLETE] = "execution_complete",
    [OSB_EVENT_PING] = "ping",
    [OSB_EVENT_OTHER] = "",
};

const char *osb_event_type_name(enum osb_event_type type)
{
    return type_names[type];
}

static bool slice_is(struct osb_slice slice, const char *word)
{
    size_t len = strlen(word);
    return slice.len == len && memcmp(slice.ptr, word, len) == 0;
}

static enum osb_event_type type_of(struct osb_slice name)
{
    for (int type = OSB_EVENT_INIT; type < OSB_EVENT_OTHER; type++)
        if (slice_is(name, type_names[type]))
            return (enum osb_event_type)type;
    return OSB_EVENT_OTHER;
}

static void skip_space(struct cursor *in)
{
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

static bool take(struct cursor *in, char byte)
{
    if (in->at == in->end || *in->at != byte)
        return false;
    in->at++;
    return true;
}

static bool take_word(struct cursor *in, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(in->end - in->at) < len || memcmp(in->at, word, len) != 0)
        return false;
    in->at += len;
    return true;
}

/* ---- strings ---- */

#define EVERY_BYTE(value) (UINT64_C(0x0101010101010101) * (value))

/* Has the top bit set in each byte of `word` that is a quote, a backslash or a control character (and perhaps in bytes
 * above the first such): a subtraction borrows from the byte above only where its own byte is found. */
static uint64_t mark_special(uint64_t word)
{
    uint64_t control = word - EVERY_BYTE(0x20);
    uint64_t quote = (word ^ EVERY_BYTE('"')) - EVERY_BYTE(1);
    uint64_t backslash = (word ^ EVERY_BYTE('\\')) - EVERY_BYTE(1);
    return (control | quote | backslash) & ~word & EVERY_BYTE(0x80);
}

/* The first byte in at..end that is a quote, a backslash or a control character, or `end`. */
static const char *find_special(const char *at, const char *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        uint64_t found = mark_special(word);
        if (found && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
            return at + __builtin_ctzll(found) / 8;
        if (found)
            break;
    }
    while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20)
        at++;
    return at;
}

/* -1 where it is no hexadecimal digit */
static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

/* Passes over what follows a backslash. */
static bool skip_escape(struct cursor *in)
{
    if (in->at == in->end)
        return false;
    char kind = *in->at++;
    if (kind != 'u')
        return kind != '\0' && strchr("\"\\/bfnrt", kind) != NULL;
    if (in->end - in->at < 4)
        return false;
    for (int i = 0; i < 4; i++)
        if (hex_digit(*in->at++) < 0)
            return false;
    return true;
}

/* Reads a string whose opening quote was taken. */
static bool read_string(struct cursor *in, struct text *string)
{
    const char *start = in->at;
    string->has_escapes = false;
    for (;;) {
        in->at = find_special(in->at, in->end);
        if (take(in, '"')) {
            string->raw = (struct osb_slice){start, (size_t)(in->at - 1 - start)};
            return true;
        }
        if (!take(in, '\\') || !skip_escape(in))
            return false;
        string->has_escapes = true;
    }
}

static uint32_t read_hex(const char *digits)
{
    uint32_t code = 0;
    for (int i = 0; i < 4; i++)
        code = code << 4 | (uint32_t)hex_digit(digits[i]);
    return code;
}

static char *put_utf8(char *to, uint32_t code)
{
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *to++ = (char)(0xe0 | code >> 12);
        } else {
            *to++ = (char)(0xf0 | code >> 18);
            *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        }
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    }
    *to++ = (char)(0x80 | (code & 0x3f));
    return to;
}

/* Reads \uXXXX, and a second one where both make a pair. `*at` is behind the u and moves behind what was read. */
static uint32_t read_code_point(const char **at, const char *end)
{
    uint32_t code = read_hex(*at);
    *at += 4;
    if (code < 0xd800 || code > 0xdfff)
        return code;
    if (code < 0xdc00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = read_hex(*at + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *at += 6;
            return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return 0xfffd;
}

/* Appends the string `raw`, already found valid, to the buffer, which has room for it: no escape is shorter than what
 * it stands for. */
static struct osb_slice unescape(struct osb_slice raw, struct osb_buf *out)
{
    const char *at = raw.ptr, *end = raw.ptr + raw.len;
    char *start = osb_buf_data(out) + out->len, *to = start;
    while (at < end) {
        const char *escape = memchr(at, '\\', (size_t)(end - at));
        size_t plain = (size_t)((escape ? escape : end) - at);
        memcpy(to, at, plain);
        to += plain;
        if (!escape)
            break;
        at = escape + 2;
        static const char names[] = "bfnrt", bytes[] = "\b\f\n\r\t";
        const char *name;
        if (escape[1] == 'u')
            to = put_utf8(to, read_code_point(&at, end));
        else if ((name = strchr(names, escape[1])) != NULL)
            *to++ = bytes[name - names];
        else
            *to++ = escape[1];
    }
    out->len += (size_t)(to - start);
    return (struct osb_slice){start, (size_t)(to - start)};
}

/* ---- numbers ---- */

static size_t count_digits(struct cursor *in)
{
    const char *start = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9')
        in->at++;
    return (size_t)(in->at - start);
}

/* A number as its parts: the digits before and after the point, and the power of ten they are multiplied by. */
struct number {
    struct osb_slice whole, fraction;
    int exponent; /* at most ±EXPONENT_LIMIT; beyond that no digits that fit into memory make a difference */
    bool is_negative;
};

#define EXPONENT_LIMIT 100000000

static bool read_exponent(struct cursor *in, int *exponent)
{
    bool is_negative = take(in, '-');
    if (!is_negative)
        (void)take(in, '+');
    const char *digit = in->at;
    if (count_digits(in) == 0)
        return false;
    for (*exponent = 0; digit < in->at && *exponent < EXPONENT_LIMIT; digit++)
        *exponent = *exponent * 10 + (*digit - '0');
    if (is_negative)
        *exponent = -*exponent;
    return true;
}

static bool read_number(struct cursor *in, struct number *number)
{
    *number = (struct number){.is_negative = take(in, '-')};
    number->whole.ptr = in->at;
    number->whole.len = count_digits(in);
    if (number->whole.len == 0 || (*number->whole.ptr == '0' && number->whole.len > 1))
        return false;
    if (take(in, '.')) {
        number->fraction.ptr = in->at;
        number->fraction.len = count_digits(in);
        if (number->fraction.len == 0)
            return false;
    }
    if (take(in, 'e') || take(in, 'E'))
        return read_exponent(in, &number->exponent);
    return true;
}

#define SAFE_DIGITS 18 /* as many always fit into 64 bits */

/* A number of few digits, as nearly all are. */
static int64_t small_value(const struct number *number)
{
    int64_t sum = 0;
    for (size_t i = 0; i < number->whole.len; i++)
        sum = sum * 10 + (number->whole.ptr[i] - '0');
    return number->is_negative ? -sum : sum;
}

/* The largest whole number that is not above `number`; false where it does not fit. Exact: no floating point. */
static bool round_down(const struct number *number, int64_t *value)
{
    if (number->whole.len <= SAFE_DIGITS && number->fraction.len == 0 && number->exponent == 0) {
        *value = small_value(number);
        return true;
    }
    size_t digits = number->whole.len + number->fraction.len;
    int64_t point = (int64_t)number->whole.len + number->exponent; /* digits from here on are the fraction */
    uint64_t sum = 0;
    bool has_fraction = false;
    for (size_t i = 0; i < digits || (int64_t)i < point; i++) {
        uint64_t digit = 0;
        if (i < number->whole.len)
            digit = (uint64_t)(number->whole.ptr[i] - '0');
        else if (i < digits)
            digit = (uint64_t)(number->fraction.ptr[i - number->whole.len] - '0');
        else if (sum == 0)
            break;
        if ((int64_t)i >= point)
            has_fraction = has_fraction || digit > 0;
        else if (sum > (INT64_MAX - digit) / 10)
            return false;
        else
            sum = sum * 10 + digit;
    }
    *value = number->is_negative ? -(int64_t)sum - (has_fraction ? 1 : 0) : (int64_t)sum;
    return true;
}

/* ---- other values ---- */

/* Passes over `"key" :` and the space around it. */
static bool read_key(struct cursor *in, struct text *key)
{
    skip_space(in);
    if (!take(in, '"') || !read_string(in, key))
        return false;
    skip_space(in);
    return take(in, ':');
}

static bool skip_scalar(struct cursor *in)
{
    struct text string;
    struct number number;
    if (in->at == in->end)
        return false;
    switch (*in->at) {
    case '"':
        in->at++;
        return read_string(in, &string);
    case 't':
        return take_word(in, "true");
    case 'f':
        return take_word(in, "false");
    case 'n':
        return take_word(in, "null");
    default:
        return read_number(in, &number);
    }
}

/* Passes over one value of any type, itself inside one object. */
static bool skip_value(struct cursor *in)
{
    char closers[OSB_EVENT_DEPTH - 1]; /* of the objects and arrays that are open */
    size_t depth = 0;
    struct text key;
    for (;;) {
        skip_space(in);
        bool is_object = take(in, '{');
        if (is_object || take(in, '[')) {
            if (depth == sizeof(closers))
                return false;
            closers[depth++] = is_object ? '}' : ']';
            skip_space(in);
            if (!take(in, closers[depth - 1])) {
                if (is_object && !read_key(in, &key))
                    return false;
                continue;
            }
            depth--;
        } else if (!skip_scalar(in)) {
            return false;
        }
        for (;;) { /* behind a value */
            if (depth == 0)
                return true;
            skip_space(in);
            if (take(in, ','))
                break;
            if (!take(in, closers[depth - 1]))
                return false;
            depth--;
        }
        if (closers[depth - 1] == '}' && !read_key(in, &key))
            return false;
    }
}

/* ---- the event ---- */

/* The string itself, unescaped into `scratch` where need be. `room`: the size of the whole JSON, which is room enough
 * for all its strings, so that the buffer never moves under earlier slices. False when memory is out. */
static bool get_text(const struct text *string, struct osb_buf *scratch, size_t room, struct osb_slice *value)
{
    *value = string->raw;
    if (!string->has_escapes)
        return true;
    if (scratch->len == 0 && !osb_buf_reserve(scratch, room))
        return false;
    *value = unescape(string->raw, scratch);
    return true;
}

/* A string into *value, or anything else passed over. False: no valid JSON, or memory is out. */
static bool read_text(struct cursor *in, struct osb_buf *scratch, size_t room, struct osb_slice *value, bool *present)
{
    struct text string;
    *value = (struct osb_slice){"", 0};
    skip_space(in);
    *present = take(in, '"');
    if (!*present)
        return skip_value(in);
    return read_string(in, &string) && get_text(&string, scratch, room, value);
}

/* A number into *value, or anything else passed over. False: no valid JSON. */
static bool read_integer(struct cursor *in, int64_t *value, bool *present)
{
    struct number number;
    *value = 0;
    *present = false;
    skip_space(in);
    if (in->at == in->end)
        return false;
    if (*in->at != '-' && (*in->at < '0' || *in->at > '9'))
        return skip_value(in);
    if (!read_number(in, &number))
        return false;
    *present = round_down(&number, value);
    return true;
}

static bool read_member(struct cursor *in, struct osb_buf *scratch, size_t room, struct osb_event *event)
{
    struct text key;
    struct osb_slice name;
    if (!read_key(in, &key) || !get_text(&key, scratch, room, &name))
        return false;
    if (slice_is(name, "type")) {
        bool is_typed;
        if (!read_text(in, scratch, room, &event->type_name, &is_typed))
            return false;
        event->type = is_typed ? type_of(event->type_name) : OSB_EVENT_UNTYPED;
        return true;
    }
    if (slice_is(name, "text"))
        return read_text(in, scratch, room, &event->text, &event->has_text);
    if (slice_is(name, "timestamp"))
        return read_integer(in, &event->timestamp_ms, &event->has_timestamp);
    if (slice_is(name, "execution_time"))
        return read_integer(in, &event->execution_time_ms, &event->has_execution_time);
    if (slice_is(name, "execution_count"))
        return read_integer(in, &event->execution_count, &event->has_execution_count);
    return skip_value(in);
}

int osb_event_decode(const char *json, size_t len, struct osb_buf *scratch, struct osb_event *event)
{
    struct cursor in = {json, json + len};
    *event = (struct osb_event){.type_name = {"", 0}, .text = {"", 0}};
    osb_buf_clear(scratch);
    skip_space(&in);
    if (!take(&in, '{'))
        return -1;
    skip_space(&in);
    if (!take(&in, '}')) {
        do {
            if (!read_member(&in, scratch, len, event))
                return -1;
            skip_space(&in);
        } while (take(&in, ','));
        if (!take(&in, '}'))
            return -1;
    }
    skip_space(&in);
    return in.at == in.end ? 0 : -1;
}
