/* WebSocket messages as bytes: headers of frames and answers, control messages. See PROTOCOL.md.
 *
 * Pure functions: any thread, no memory kept. What is parsed points into the caller's bytes. */
#ifndef TV3S_PROTO_MESSAGE_H
#define TV3S_PROTO_MESSAGE_H

#include "proto/mask.h"

enum { FRAME_HEADER = 32, ANSWER_HEADER = 48, MESSAGE_VERSION = 1 };

#define MESSAGE_NO_PTS INT64_MIN

enum message_kind { MESSAGE_IMAGE = 1, MESSAGE_RGB24, MESSAGE_NV12, MESSAGE_PACKET };

enum message_codec {
    MESSAGE_NO_CODEC,
    MESSAGE_H264,
    MESSAGE_HEVC,
    MESSAGE_VP8,
    MESSAGE_VP9,
    MESSAGE_AV1
};

/* A frame on its way to the server. */
struct frame_message {
    enum message_kind kind;
    enum message_codec codec; /* of MESSAGE_PACKET */
    bool key_frame, silent;
    int64_t seq; /* -1: a bare image, which the server numbers */
    int64_t pts; /* microseconds, or MESSAGE_NO_PTS */
    int width, height;
    const uint8_t *payload; /* never empty */
    size_t len;
};

/* A frame's message: a bare JPEG, PNG or WebP, or header and payload. The payload of RGB24 and NV12
 * has exactly the size that its picture needs. ERR_FORMAT says which rule is broken. */
enum err message_parse_frame(const void *data, size_t len, struct frame_message *out);

/* The header of `f`, whose seq is not -1. The payload follows it. */
void message_write_frame(const struct frame_message *f, uint8_t out[FRAME_HEADER]);

/* Bytes of a picture; 0 for sizes out of 1..MASK_MAX_SIDE. */
size_t message_rgb24_size(int width, int height);
size_t message_nv12_size(int width, int height);

/* A mask on its way back. */
struct answer_message {
    bool none;               /* the frame was silent: no mask */
    enum mask_format format; /* where there is one */
    bool from_zero;          /* the state was zero before this frame */
    int64_t seq, pts;
    int width, height;
    uint32_t decode_us, queue_us, compute_us, encode_us;
    const uint8_t *payload; /* parsed: the mask */
    size_t len;
};

/* The header of `a`; its payload is not looked at. */
void message_write_answer(const struct answer_message *a, uint8_t out[ANSWER_HEADER]);
/* ERR_FORMAT. */
enum err message_parse_answer(const void *data, size_t len, struct answer_message *out);

enum control_kind { CONTROL_RESET, CONTROL_STATS, CONTROL_FORMAT, CONTROL_END };

struct control_message {
    enum control_kind kind;
    enum mask_format format; /* of CONTROL_FORMAT */
};

/* A client's text message. ERR_FORMAT: not JSON, no type that we know, a member too much. */
enum err message_parse_control(const char *text, size_t len, struct control_message *out);

#endif
