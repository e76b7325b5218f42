/* The texts of the files in drivers/; made by CMake. */
#ifndef OSB_DRIVERS_H
#define OSB_DRIVERS_H

#include <stddef.h>

extern const unsigned char osb_driver_python[], osb_driver_javascript[], osb_driver_bash[], osb_driver_lua[];
extern const size_t osb_driver_python_size, osb_driver_javascript_size, osb_driver_bash_size, osb_driver_lua_size;

#endif
