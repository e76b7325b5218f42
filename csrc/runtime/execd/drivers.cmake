# Makes drivers.c of the files in drivers/, so that the program needs no files beside it.
set(drivers_source ${CMAKE_CURRENT_BINARY_DIR}/generated/drivers.c)
set(text "#include \"runtime/execd/drivers.h\"\n")
foreach(file python.py javascript.js bash.sh lua.lua)
  set(path ${CMAKE_CURRENT_LIST_DIR}/drivers/${file})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  get_filename_component(name ${file} NAME_WE)
  file(READ ${path} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND text "\nconst unsigned char osb_driver_${name}[] = {${bytes}};\n"
    "const size_t osb_driver_${name}_size = sizeof osb_driver_${name};\n")
endforeach()
file(CONFIGURE OUTPUT ${drivers_source} CONTENT "${text}" @ONLY)
target_sources(execd PRIVATE ${drivers_source})
