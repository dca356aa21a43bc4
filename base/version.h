#ifndef TV3S_BASE_VERSION_H
#define TV3S_BASE_VERSION_H

#define TV3S_VERSION "0.1.0"

#endif
