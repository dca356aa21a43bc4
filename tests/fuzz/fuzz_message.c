/* WebSocket messages from anywhere: parsers stay in bounds, and headers come back the same. */
#include "proto/message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_frame(const uint8_t *data, size_t size)
{
    struct frame_message f;
    uint8_t header[FRAME_HEADER];
    if (message_parse_frame(data, size, &f) != ERR_OK)
        return;
    if (f.len == 0 || f.payload < data || f.payload + f.len != data + size)
        abort();
    if (f.seq < 0)
        return; /* a bare image */
    message_write_frame(&f, header);
    if (memcmp(header, data, FRAME_HEADER) != 0)
        abort();
}

static void check_answer(const uint8_t *data, size_t size)
{
    struct answer_message a, again;
    uint8_t header[ANSWER_HEADER];
    if (message_parse_answer(data, size, &a) != ERR_OK)
        return;
    if (a.payload + a.len != data + size)
        abort();
    message_write_answer(&a, header);
    if (message_parse_answer(header, ANSWER_HEADER, &again) || again.seq != a.seq ||
        again.format != a.format || again.encode_us != a.encode_us)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct control_message c;
    check_frame(data, size);
    check_answer(data, size);
    if (message_parse_control((const char *)data, size, &c) == ERR_OK &&
        (c.kind > CONTROL_END || c.format >= MASK_FORMATS))
        abort();
    return 0;
}
